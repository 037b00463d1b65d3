"""What are the recipe's knobs worth in the sandbox? Visual tokens, frames a second, and variant A against B.

One knob at a time about the preset's own video contract (2 frames a second, 8 frames at most, 6 tokens a temporal
patch): the cap of tokens, as the reference recipe's step from 256 to 768 but at the tiny model's scale; and frames a
second with no cap on their number. Each setting trains variant B anew and answers under the same contract; A is trained
under the preset's. Three lots, as in `benchmarks/learning.py`, and what that has done is not done again. Intervals and
paired tests take the recordings of all lots as their units.

Prints a table, writes `results/ablation.json` and `ablation.svg` after each run: a benchmark that was stopped goes on.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.parts.picture import Mark, Panel, draw
from benchmarks.parts.preset import SEEDS, Answered, Pipeline, lent, pooled, preset, run
from services.cli import words
from services.local import stack
from shared import metrics

RESULTS = Path(__file__).parent / "results" / "ablation.json"
TOKENS = (2, 4, 6, 12)  #: a temporal patch; 6 is the preset's
FPS = (0.5, 1.0, 2.0, 4.0)
FRAMES = 32  #: enough for the sandbox's longest clip at the highest of FPS
BASE, A, B = "prompt", "fine-tuned A", "fine-tuned B"


class Setting(NamedTuple):
    """A video contract. Only the preset's own has variant A beside B."""

    knob: str
    value: float
    video: dict[str, Any]  #: what differs from the preset's
    own: bool = False

    @property
    def name(self) -> str:
        return f"{self.knob} {self.value:g}"


OWN = Setting("tokens a patch", 6, {}, own=True)
SETTINGS = (
    OWN,
    *(Setting("tokens a patch", cap, {"tokens_per_patch": cap}) for cap in TOKENS if cap != OWN.value),
    *(Setting("frames a second", fps, {"fps": fps, "max_frames": FRAMES}) for fps in FPS),
)
Answers = dict[str, dict[int, dict[str, Answered]]]  #: setting → lot → row → answers


def pipeline(setting: Setting, lot: int) -> Pipeline:
    """The preset under a setting: the model before and after training, nothing else."""
    found = preset(lot)
    found["video"] |= setting.video
    if setting.own:
        return found  # as `benchmarks/learning.py` runs it
    found["steps"] = {name: step for name, step in found["steps"].items() if step["stage"] == "label"} | {
        B: found["steps"][B]
    }
    rows = found["report"]["rows"]
    found["report"]["rows"] = {BASE: {**rows[BASE], "parent": None}, B: rows[B]}
    return found


def against(model: Answered, other: Answered) -> dict[str, Any]:
    """The paired comparison on the same questions."""
    assert model.recordings == other.recordings
    found = metrics.compare(model.right, other.right, model.recordings)
    return {"difference": found.difference, "ci95": [found.interval.low, found.interval.high], "p": found.p,
            "wins": found.wins, "losses": found.losses}  # fmt: skip


def rows(answers: Answers) -> list[dict[str, Any]]:
    """Every setting's untrained and trained model, all lots together; each trained one against the preset's B."""
    found = []
    for setting in SETTINGS:
        lots = answers.get(setting.name, {})
        for name in (BASE, B, A) if setting.own else (BASE, B):
            parts = {lot: answered[name] for lot, answered in lots.items()}
            if not parts:
                continue
            whole = pooled(parts)
            row = {
                "knob": setting.knob, "value": setting.value, "row": name, **whole.score(),
                "seconds_per_question": whole.seconds,
                "by_seed": {str(lot): part.score()["accuracy"] for lot, part in parts.items()},
            }  # fmt: skip
            peer = {lot: answered[B] for lot, answered in answers.get(OWN.name, {}).items() if lot in parts}
            if name != BASE and (name, setting) != (B, OWN) and peer.keys() == parts.keys():
                row["against_own_b"] = against(whole, pooled(peer))
            found.append(row)
    return found


def write(answers: Answers, began: float) -> list[dict[str, Any]]:
    """The figures so far, and which runs are missing."""
    missing = [f"{setting.name}, seed {lot}" for lot in SEEDS for setting in SETTINGS
               if lot not in answers.get(setting.name, {})]  # fmt: skip
    made = rows(answers)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    result = {"machine": machine, "seeds": list(SEEDS), "seconds": round(time.monotonic() - began, 1),
              "own": preset(0)["video"], "missing": missing, "rows": made}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".svg").write_text(picture(made), encoding="utf-8")
    return made


def picture(made: list[dict[str, Any]]) -> str:
    """Both knobs; hollow circles before training, full ones after (variant B), a square for variant A."""
    looks = {BASE: "before", B: "after", A: "other"}
    panels: dict[str, list[Mark]] = {}
    for row in made:
        tip = f"{row['row']}: {words.percent(row['accuracy'])} ({words.interval(row['ci95'])}), n = {row['n']}"
        mark = Mark(row["value"], row["accuracy"], row["ci95"], looks[row["row"]], tip)
        panels.setdefault(row["knob"], []).append(mark)
    label = "share of right answers in the sandbox, with 95% intervals: before training, after (B), variant A"
    return draw([Panel(knob, marks) for knob, marks in panels.items()], label)


def table(made: list[dict[str, Any]]) -> Table:
    heads = ("setting", "row", "right", "95% interval", "against B", "95% interval", "p", "a question", "n", "seeds")
    shown = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for row in made:
        versus = row.get("against_own_b") or {}
        shown.add_row(
            f"{row['knob']} {row['value']:g}", row["row"], words.percent(row["accuracy"]), words.interval(row["ci95"]),
            words.points(versus.get("difference")), words.points_interval(versus.get("ci95")),
            words.p_value(versus.get("p")), words.per_question(row["seconds_per_question"]), str(row["n"]),
            str(len(row["by_seed"])),
        )  # fmt: skip
    return shown


def main() -> None:
    """`make bench NAME=ablation`

    Raises:
        RoadQAError: the stack does not come up, or a run fails; those before it are in the results.
    """
    began = time.monotonic()
    answers: Answers = {setting.name: {} for setting in SETTINGS}
    runs = [(setting, lot) for lot in SEEDS for setting in SETTINGS]
    with lent() as env:
        for number, (setting, lot) in enumerate(runs, 1):
            answers[setting.name][lot] = run(env, pipeline(setting, lot))
            made = write(answers, began)  # at once: a later run may fail
            spent = time.monotonic() - began
            left = words.duration(spent / number * (len(runs) - number))
            done = f"{number} of {len(runs)} in {words.duration(spent)}, {left} left"
            print(f"{setting.name}, seed {lot}: done, {done}", flush=True)
    Console(width=140).print(table(made))


if __name__ == "__main__":
    with stack.one_line_errors():
        main()
