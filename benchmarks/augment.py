"""What the gates of augmentation are worth: the share of variations that are wrong, with gates and without.

Drawn scenes with their true answers, the augment verb as it is, the real google-genai client over HTTP on loopback.
The sandbox's teacher loses the meaning of 15% of what it rewrites, and a tenth of its checks go wrong. Its words are
known, so that what each variation asks is known, and whether the scene bears its answer out. The variations with gates
and without come from the same teacher; intervals take the recording as their unit. Variations by rules are judged the
same way, read by a table that knows nothing of the rules (`parts/reading.py`); what it cannot read counts as wrong.

Prints a table and writes `results/augment.json`.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.parts import reading
from benchmarks.parts.telling import Telling
from services.cli import words
from services.sandbox.clips import scene_of
from services.sandbox.mistakes import Rates
from services.sandbox.paraphrases import right
from services.sandbox.scene import Scene
from services.sandbox.taught import sandbox_teacher, write_scene_rows
from shared import metrics
from shared.contracts import AugmentRecipe, TeacherRecipe
from shared.schema import Question, Rejected, Rows, read_jsonl, write_rows
from shared.teachers import connect
from workers.augmenter.augment import augment

RESULTS = Path(__file__).parent / "results" / "augment.json"
RECORDINGS, CLIPS, PER_CLIP = 60, 4, 4
PER_QUESTION = 2
RATES = Rates(slips=0.15, verify_error=0.1)


Reader = Callable[[Scene, str, Sequence[str]], int | None]  #: which choice the scene bears out


class Judged(NamedTuple):
    """Variations against the scenes' truth."""

    wrong: list[int]  #: 1 where the answer is not what the scene bears out
    recordings: list[str]

    def share(self) -> dict[str, Any]:
        share, interval = metrics.accuracy_interval(self.wrong, self.recordings)
        return {"wrong": share, "ci95": [interval.low, interval.high], "n": len(self.wrong)}


def main() -> None:
    """`make bench NAME=augment`"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = drawn(folder / "data")
        made = {gates: varied(folder, rows, gates) for gates in (False, True)}
        rules = {gates: by_rules(folder, rows, gates) for gates in (False, True)}
        turned_away = by_gate(rows, read_jsonl(folder / "out-True" / "rejected.jsonl", Rejected))
    ungated, gated = made[False][0].share(), made[True][0].share()
    facts = made[True][1]
    result = {
        "n": gated["n"],
        "wrong_share_ungated": ungated["wrong"], "ungated_ci95": ungated["ci95"], "n_ungated": ungated["n"],
        "wrong_share_gated": gated["wrong"], "gated_ci95": gated["ci95"],
        "questions": facts["questions"], "short": facts["short"], "answers_at": facts["answers_at"],
        "rules": {"ungated": rules[False], "gated": rules[True]},
        "rejected": turned_away, "teacher": RATES._asdict(), "usd_per_variation": facts["usd"] / gated["n"],
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    by_name = {"without gates": ungated, "with gates": gated}
    by_name |= {"by rules, without gates": rules[False], "by rules, with gates": rules[True]}
    Console().print(table(by_name), table_of_gates(turned_away))


def drawn(folder: Path) -> Rows:
    """Questions with their true answers, as humans would have given them."""
    truth = write_scene_rows(folder, RECORDINGS, CLIPS, PER_CLIP)
    rows = Rows([folder])
    write_rows(folder, [question.model_copy(update={"answer": truth[question.id]}) for question in rows.questions],
               rows.clips)  # fmt: skip
    return Rows([folder])


def varied(folder: Path, rows: Rows, gates: bool) -> tuple[Judged, dict[str, Any]]:
    """The verb's variations, judged; its facts."""
    recipe = AugmentRecipe(
        method="teacher", per_question=PER_QUESTION, teacher=TeacherRecipe(model="sandbox-teacher"), gates=gates
    )
    out = folder / f"out-{gates}"
    out.mkdir()
    with sandbox_teacher(f"--slips={RATES.slips}", f"--verify-error={RATES.verify_error}") as url:
        factory = partial(connect, api_key="sandbox", base_url=url)
        ctx = Telling(folder / f"scratch-{gates}", "with gates" if gates else "without gates")
        facts = augment({"data": [folder / "data"]}, recipe, out, ctx, teacher_factory=factory)
    found = Rows([out]).questions
    return judged(rows, ((q.clip, q.text, [choice.text for choice in q.choices], q.answer) for q in found)), facts


def by_rules(folder: Path, rows: Rows, gates: bool) -> dict[str, Any]:
    """The same of the verb's variations by rules; how many of them could not be read."""
    out = folder / f"rules-{gates}"
    out.mkdir()
    recipe = AugmentRecipe(method="rules", per_question=PER_QUESTION, gates=gates)
    augment({"data": [folder / "data"]}, recipe, out, Telling(folder / f"scratch-rules-{gates}", "by rules"))
    found = [(q.clip, q.text, [choice.text for choice in q.choices], q.answer) for q in Rows([out]).questions]
    unread = sum(reading.unread(text, choices) for _, text, choices, _ in found)
    return judged(rows, found, reading.right).share() | {"unread": unread}


def judged(rows: Rows, variations: Iterable[tuple[str, str, list[str], int | None]], reader: Reader = right) -> Judged:
    wrong, recordings = [], []
    for clip, text, choices, answer in variations:
        wrong.append(int(reader(scene_of(rows.clip_path(clip)), text, choices) != answer))
        recordings.append(rows.clips[clip].recording)
    return Judged(wrong, recordings)


def by_gate(rows: Rows, rejected: Iterable[Rejected]) -> dict[str, dict[str, int]]:
    """What each gate turned away: variations that were wrong indeed, and those that were right."""
    parents: dict[str, Question] = {question.id: question for question in rows.questions}
    counts: dict[str, Counter[str]] = {}
    for row in rejected:
        parent = parents[row.parent]
        verdict = judged(rows, [(parent.clip, row.text, list(row.choices), parent.answer)]).wrong[0]
        counts.setdefault(row.gate, Counter(wrong=0, right=0))["wrong" if verdict else "right"] += 1
    return {gate: dict(count) for gate, count in sorted(counts.items())}


def table(by_name: dict[str, dict[str, Any]]) -> Table:
    made = Table("variations", "n", "wrong", "95% interval", box=None, pad_edge=False, header_style="bold")
    for name, share in by_name.items():
        made.add_row(name, str(share["n"]), words.percent(share["wrong"]), words.interval(share["ci95"]))
    return made


def table_of_gates(turned_away: dict[str, dict[str, int]]) -> Table:
    made = Table("gate", "turned away wrong", "and right", box=None, pad_edge=False, header_style="bold")
    for gate, count in turned_away.items():
        made.add_row(gate, str(count["wrong"]), str(count["right"]))
    return made


if __name__ == "__main__":
    main()
