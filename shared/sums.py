"""`SHA256SUMS` beside the files of a folder, as `sha256sum -c` reads it: damage on the way is found on arrival."""

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from shared.errors import InputError

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write(folder: Path, digests: Mapping[str, str]) -> None:
    """Say of each file, by its path in `folder`, what its bytes hash to."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()) if name != FILE)
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def check(folder: Path) -> int:
    """Compare the files with what their sums say; returns how many, 0 where the folder has no sums.

    Raises:
        InputError: a file is missing or damaged, or the sums are; names it.
    """
    if not (folder / FILE).is_file():
        return 0
    due = _read(folder / FILE)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, found in zip(due, pool.map(lambda name: _digest(folder / name), due), strict=True):
            if found != due[name]:
                what = "is missing" if found is None else f"is damaged: its bytes hash to {found[:16]}…"
                raise InputError(f"{folder / name}: {what} ({FILE} says {due[name][:16]}…); copy or export it again")
    return len(due)


def _read(path: Path) -> dict[str, str]:
    due: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path}:{number}: is no line of a SHA-256 and a file here; copy or export it again")
        due[match[2]] = match[1]
    return due


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
