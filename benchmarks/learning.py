"""Does what fine-tuning gains in the sandbox hang on the lot? The preset under three seeds of its training.

The local stack, the same drawn scenes and labels, `seed` set anew in both trainings. Prints a table, writes
`results/learning.json`, and fails where a fine-tuned row does not clear the baseline's interval.
"""

import json
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import yaml

from scripts.demo import STATE, roadqa
from services.local import stack

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results" / "learning.json"
ROWS = {"base": "baseline", "a": "fine-tuned A", "b": "fine-tuned B"}


def pipeline(seed: int) -> str:
    """The sandbox preset with `seed` in every training."""
    preset = yaml.safe_load((resources.files("services.cli.presets") / "sandbox.yaml").read_text(encoding="utf-8"))
    for step in preset["steps"].values():
        if step["stage"] == "train":
            step["seed"] = seed
    return yaml.safe_dump(preset, sort_keys=False, allow_unicode=True)


def run(env: dict[str, str], seed: int) -> dict[str, Any]:
    """What the preset scores under this seed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seed-{seed}.yaml"
        path.write_text(pipeline(seed), encoding="utf-8")
        name = roadqa(env, "run", str(path), capture=True).strip().splitlines()[-1]
    roadqa(env, "watch", name)
    report = json.loads(roadqa(env, "report", name, "--json", capture=True))
    return {"seed": seed, **{short: _scores(report, row) for short, row in ROWS.items()}}


def _scores(report: dict[str, Any], name: str) -> dict[str, Any]:
    row = next(row for row in report["rows"] if row["name"] == name)
    place = report["by_category"]["rows"].index(name)
    by_category = {group["name"]: group["accuracy"][place] for group in report["by_category"]["groups"]}
    return {key: row[key] for key in ("accuracy", "ci95", "n")} | {"by_category": by_category}


def _write(found: list[dict[str, Any]]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    RESULTS.write_text(json.dumps({"machine": machine, "seeds": found}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run every seed, then judge.

    Raises:
        RoadQAError: the stack does not come up, or a seed fails; those before it are in the results.
    """
    found: list[dict[str, Any]] = []
    with stack.borrowed(STATE) as env:
        for seed in SEEDS:
            found.append(run(env, seed))
            _write(found)  # at once: a later seed may fail
    short = []
    print("seed  row           right  95% interval    over base")
    for scores in found:
        base = scores["base"]
        for name, row in ROWS.items():
            own, (low, high) = scores[name], scores[name]["ci95"]
            gain = f"{100 * (own['accuracy'] - base['accuracy']):+.1f}" if name != "base" else ""
            print(f"{scores['seed']:4}  {row:13} {own['accuracy']:.3f}  [{low:.3f}, {high:.3f}]  {gain}")
            if name != "base" and low <= base["ci95"][1]:
                short.append(f"seed {scores['seed']}: {row} does not clear the baseline's interval")
    if short:
        sys.exit("\n".join(short))


if __name__ == "__main__":
    with stack.one_line_errors():
        main()
