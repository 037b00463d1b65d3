"""Ask for a bump of a stage's version when the source behind its verb has changed.

`workers/versions.lock` keeps, for each stage, its version and a digest of the code that decides its
result (comments and layout do not count). A changed digest with the same version fails; after a
bump in `shared/contracts.py` (or, where the result cannot have changed, after a look at the diff)
`python -m scripts.stage_versions --write` records the new state.
"""

import argparse
import ast
import hashlib
import json
import sys

from scripts.environments import ROOT
from shared.contracts import STAGES

LOCK = ROOT / "workers" / "versions.lock"

_PROMPTS = tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("shared/system_prompts/*.md")))
_SHARED = ("shared/schema.py", "shared/prompts.py", "shared/choices.py", *_PROMPTS)
_VIDEO = (
    "shared/budget.py",
    "shared/container.py",
    "shared/packets.py",
    "shared/pictures.py",
    "shared/timeline.py",
    "shared/video.py",
    "shared/vlm/encode.py",
)
#: What decides a stage's result, beside its worker's own folder.
SOURCES = {
    "label": ("workers/labeler", "shared/teachers", *_SHARED),
    "augment": ("workers/augmenter", *_SHARED),
    "train": ("workers/trainer", *_SHARED, *_VIDEO),
    "quantize": ("workers/quantizer", "shared/geometry.py", "shared/schemes.py", *_SHARED, *_VIDEO),
    "predict": ("workers/inference", *_SHARED, *_VIDEO),
    "evaluate": (
        "workers/inference/evaluate.py",
        "workers/inference/changes.py",
        "workers/inference/verdict.py",
        "shared/breakdown.py",
        "shared/calibration.py",
        "shared/metrics.py",
        "shared/positions.py",
        *_SHARED,
    ),
}
_PLUMBING = ("tasks.py", "app.py", "__init__.py")
_ELSEWHERE = {
    "predict": (
        "evaluate.py", "changes.py", "verdict.py", "serve.py", "door.py",
        "compete.py", "contest.py", "deadline.py", "timed.py",
    ),
}  # fmt: skip


def digest(stage: str) -> str:
    """Of the syntax trees of the stage's sources, and the text of its prompts."""
    seen = hashlib.sha256()
    for source in SOURCES[stage]:
        path = ROOT / source
        words = ("*.py", "prompts/*", "recipes/*")
        files = [path] if path.is_file() else sorted(file for word in words for file in path.rglob(word))
        for file in files:
            if file.name in _PLUMBING or file.name in _ELSEWHERE.get(stage, ()) or not file.is_file():
                continue
            text = file.read_text(encoding="utf-8")
            seen.update(file.relative_to(ROOT).as_posix().encode())
            seen.update((ast.dump(ast.parse(text)) if file.suffix == ".py" else text).encode())
    return seen.hexdigest()[:16]


def current() -> dict[str, dict[str, object]]:
    return {name: {"version": stage.version, "source": digest(name)} for name, stage in STAGES.items()}


def problems() -> list[str]:
    """Stages whose source changed while their version did not."""
    kept = json.loads(LOCK.read_text())
    found = []
    for name, state in current().items():
        before = kept.get(name)
        if before == state:
            continue
        if before and before["version"] == state["version"]:
            found.append(
                f"{name}: its source changed, its version did not. If results can differ, bump it in "
                "shared/contracts.py; then `python -m scripts.stage_versions --write`"
            )
        else:
            found.append(
                f"{name}: version {state['version']} is not recorded; `python -m scripts.stage_versions --write`"
            )
    return found


def main() -> None:
    """Check, or with --write record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="record the present state")
    if parser.parse_args().write:
        LOCK.write_text(json.dumps(current(), indent=1) + "\n")
        return
    if found := problems():
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
