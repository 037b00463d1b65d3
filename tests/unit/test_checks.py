"""`make check` finds what it is there to find: faults planted in a copy of the tree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
LINT = [PYTHON.parent / "lint-imports", "--no-cache"]
STAGE_VERSIONS = [PYTHON, "-m", "scripts.stage_versions"]
DOCS = [PYTHON, "-m", "scripts.docs", "--check"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in ("shared", "workers", "services", "scripts", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    return tree


def check(tree: Path, command: list[object]) -> tuple[int, str]:
    env = {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("command", "file", "before", "planted", "said"),
    [
        (LINT, "shared/run.py", "", "import services.cli.words\n", "shared imports no one BROKEN"),
        (LINT, "services/cli/words.py", "", "import workers.labeler.ask\n", "services import no worker BROKEN"),
        (LINT, "workers/labeler/ask.py", "", "import workers.augmenter.rules\n", "never each other BROKEN"),
        (LINT, "workers/labeler/ask.py", "", "import services.cli.words\n", "workers import no service BROKEN"),
        (LINT, "shared/store.py", "", "import torch\n", "no torch and no worker's library in shared.* BROKEN"),
        (LINT, "workers/trainer/plan.py", "", "import shared.teachers.pace\n", "labeler and augmenter only BROKEN"),
        (LINT, "workers/labeler/ask.py", "", "import shared.vlm.encode\n", "quantizer and inference only BROKEN"),
        (STAGE_VERSIONS, "workers/trainer/plan.py", "math.ceil", "math.floor", "train: its source changed"),
        (STAGE_VERSIONS, "workers/labeler/prompts/verify.v1.md", "", "Guess.\n", "label: its source changed"),
        (DOCS, "shared/settings.py", "seconds between heartbeats", "beats", "README.md has drifted"),
        (DOCS, "services/cli/main.py", "All runs, or the steps of one.", "Runs.", "docs/cli.md has drifted"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(
    copy: Path, command: list[object], file: str, before: str, planted: str, said: str
) -> None:
    path = copy / file
    sound = path.read_text()
    path.write_text(sound.replace(before, planted) if before else sound + planted)
    try:
        code, printed = check(copy, command)
    finally:
        path.write_text(sound)
    assert code == 1
    assert re.search(said, printed), printed


@pytest.mark.parametrize("command", [LINT, STAGE_VERSIONS, DOCS])
def test_the_tree_itself_is_clean(copy: Path, command: list[object]) -> None:
    code, printed = check(copy, command)
    assert code == 0, printed


def test_a_comment_asks_for_no_bump(copy: Path) -> None:
    path = copy / "workers/trainer/plan.py"
    sound = path.read_text()
    path.write_text(f"# a remark\n{sound}")
    code, printed = check(copy, STAGE_VERSIONS)
    path.write_text(sound)
    assert code == 0, printed
