"""SHA256SUMS: what was damaged on the way is named."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from shared import sums
from shared.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "runs" / "a file").write_bytes(b"x")
    names = ("model.safetensors", "runs/a file")
    sums.write(tmp_path, {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names})
    return tmp_path


def test_whole_files_pass(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert sums.check(folder) == 2
    assert sums.check(tmp_path_factory.mktemp("without")) == 0


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_coreutils_reads_it_too(folder: Path) -> None:
    assert subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, check=False).returncode == 0


def test_a_flipped_bit_and_a_missing_file_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[3333] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors: is damaged"):
        sums.check(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: is missing"):
        sums.check(folder)


@pytest.mark.parametrize("line", ["no sum", f"{'0' * 64}  ../elsewhere", f"{'0' * 64}  /etc/passwd"])
def test_sums_that_are_damaged_themselves_are_told(folder: Path, line: str) -> None:
    (folder / sums.FILE).write_text(f"{line}\n")
    with pytest.raises(InputError, match="SHA256SUMS:1"):
        sums.check(folder)
