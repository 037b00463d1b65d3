"""Does the sandbox's model learn, whatever the lot? The preset without its quantised models, under three lots.

It trains twice as long as the preset, whose epochs are what `make demo` has time for. A lot draws all scenes anew and
seeds both trainings; lot 0 has the preset's own scenes. Prints a table, writes `results/learning.json`, and fails where
the untouched base is not between 0.40 and 0.65, or where a fine-tuned model is not 15 points above it with intervals
apart. What a run has done is in the store: a benchmark that was stopped goes on.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts.preset import SEEDS, lent, pooled, preset, run
from services.cli import words
from services.local import stack

RESULTS = Path(__file__).parent / "results" / "learning.json"
ROWS = {"base": "baseline", "a": "fine-tuned A", "b": "fine-tuned B"}
BASE_BETWEEN = (0.40, 0.65)
GAIN = 0.15
LONGER = 2  #: times the preset's epochs

Categories = dict[str, dict[str, dict[str, Any]]]  #: base, a or b → category → its score


def faults(scores: dict[str, Any]) -> list[str]:
    """What of one lot's scores is short of what is asked."""
    base, (low, high) = scores["base"], BASE_BETWEEN
    found = [] if low <= base["accuracy"] <= high else [f"the base is not between {low:.2f} and {high:.2f}"]
    for short in ("a", "b"):
        gain = scores[short]["accuracy"] - base["accuracy"]
        if gain < GAIN:
            found.append(f"{ROWS[short]} gains {words.points(gain)} points, not {100 * GAIN:.0f}")
        if scores[short]["ci95"][0] <= base["ci95"][1]:
            found.append(f"{ROWS[short]}'s interval meets the baseline's")
    return found


def at_chance(categories: Categories) -> list[str]:
    """Categories in which neither fine-tuned model's interval is above what a guess gets."""
    return [name for name, guess in categories["base"].items()
            if all(categories[short][name]["ci95"][0] <= guess["chance"] for short in ("a", "b"))]  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    """Every lot's rows, then the categories over all lots."""
    lines = ["seed  row           right  95% interval  over base     n"]
    for scores in found:
        for short, row in ROWS.items():
            own = scores[short]
            gain = words.points(own["accuracy"] - scores["base"]["accuracy"]) if short != "base" else ""
            lines.append(
                f"{scores['seed']!s:>4}  {row:13} {words.percent(own['accuracy'])}  {words.interval(own['ci95']):>12}"
                f"  {gain:>9}  {own['n']:>4}"
            )
    return lines


def by_category(categories: Categories) -> list[str]:
    lines = ["category            n  chance   base      A      B"]
    for name, base in categories["base"].items():
        shares = [base["chance"], *(categories[short][name]["accuracy"] for short in ROWS)]
        lines.append(f"{name:16} {base['n']:>4}   " + "  ".join(f"{words.percent(share):>5}" for share in shares))
    return lines


def write(found: list[dict[str, Any]], together: dict[str, Any], categories: Categories, began: float) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    result = {
        "machine": machine,
        "times_the_presets_epochs": LONGER,
        "a_seed_draws": "all scenes and labels, and both trainings",
        "seconds": round(time.monotonic() - began, 1),
        "short": {str(scores["seed"]): faults(scores) for scores in found},
        "at_chance": at_chance(categories),
        "seeds": found,
        "pooled": together | {"categories": categories},
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """`make bench NAME=learning`

    Raises:
        RoadQAError: the stack does not come up, or a lot's run fails; those before it are in the results.
    """
    began = time.monotonic()
    found: list[dict[str, Any]] = []
    answers = {}
    with lent() as env:
        for number, lot in enumerate(SEEDS, 1):
            answers[lot] = run(env, preset(lot, LONGER))
            found.append({"seed": lot, **{short: answers[lot][row].score() for short, row in ROWS.items()}})
            whole = {short: pooled({lot: rows[row] for lot, rows in answers.items()}) for short, row in ROWS.items()}
            together = {"seed": "all", **{short: answered.score() for short, answered in whole.items()}}
            categories = {short: answered.categories() for short, answered in whole.items()}
            write(found, together, categories, began)  # at once: a later lot may fail
            spent = time.monotonic() - began
            left = words.duration(spent / number * (len(SEEDS) - number))
            print(f"seed {lot}: done, {number} of {len(SEEDS)} in {words.duration(spent)}, {left} left", flush=True)
    print("\n".join([*table([*found, together]), "", *by_category(categories)]))
    if short := [f"seed {scores['seed']}: {fault}" for scores in found for fault in faults(scores)]:
        sys.exit("\n".join(short))


if __name__ == "__main__":
    with stack.one_line_errors():
        main()
