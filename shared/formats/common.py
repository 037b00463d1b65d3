"""What every data format is read into: questions, clips that passed the gate, and what is wrong with the rest."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import InputError, MediaError
from shared.schema import Clip, Question
from shared.video import MediaLimits, probe

Progress = Callable[[int, int], None]  #: (clips done, clips in all)

_VIETNAMESE = re.compile(r"[àáâãèéêìíòóôõùúýăđĩũơưạ-ỹ]", re.IGNORECASE)
_CLIP_NUMBER = re.compile(r"_clip_\d+.*$|_\d+$", re.IGNORECASE | re.DOTALL)


@dataclass
class Imported:
    """A data file as it was understood. What could not be is in `problems`, one line for each."""

    questions: list[Question] = field(default_factory=list)
    clips: dict[str, Clip] = field(default_factory=dict)  #: by digest
    paths: dict[str, Path] = field(default_factory=dict)  #: local file of each clip that is not in the store yet
    problems: list[str] = field(default_factory=list)  #: file, row, what is wrong, what happened to it


def one_line(text: str) -> str:
    """`text` without line breaks and control characters: it goes to a terminal and comes from a stranger."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tidy(text: str) -> str:
    """NFC, with single spaces: texts from different hands compare equal."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file for people and programs; appears whole or not at all."""
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    incoming.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    incoming.replace(path)


def language_of(text: str) -> str:
    """`vi` where the text has a letter of the Vietnamese alphabet that English lacks, else `en`."""
    return "vi" if _VIETNAMESE.search(unicodedata.normalize("NFC", text)) else "en"


def recording_of(name: str) -> str:
    """The recording a clip was cut from, by its file name.

    `9f2c_386_clip_002_0008_0018_Y.mp4` (the competition's naming) → `9f2c_386`;
    `highway_day_0001.mp4` → `highway_day`; a name without a number is its own recording.
    A name that is only a number is one too, in its folder: `cam1/0001.mp4` → `cam1/0001`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.stem.strip("_").isdecimal():
        return f"{path.parent.name}/{path.stem}".removeprefix("/")
    return _CLIP_NUMBER.sub("", path.stem) or path.stem


def resolve_within(folder: Path, name: str) -> Path:
    """The regular file called `name` in `folder`, in whichever Unicode form the disk spells it.

    Raises:
        InputError: absent, outside `folder` (absolute, by `..`, or by a link that leads out), or no name that
            a disk can hold.
    """
    try:
        return _within(folder, name)
    # too long, or in a folder that is closed to us; a loop of links; half of a surrogate pair
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"clip {one_line(name[:200])!r} cannot be opened: {reason}; rename or replace the file"
        ) from error


def _within(folder: Path, name: str) -> Path:
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise InputError(f"clip {one_line(name[:200])!r} is not a path inside the videos folder")
    root = folder.resolve()
    for form in dict.fromkeys((str(relative), *(unicodedata.normalize(f, str(relative)) for f in ("NFC", "NFD")))):
        path = (root / form).resolve()
        if not path.is_relative_to(root):
            raise InputError(f"clip {one_line(name[:200])!r} leads out of the videos folder; copy the file into it")
        if path.is_file():
            return path
    raise InputError(f"clip {one_line(name[:200])!r} is not in {folder}; give the folder that its path starts from")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_clip(path: Path, name: str, *, limits: MediaLimits | None = None, thorough: bool = True) -> Clip:
    """Hash and probe one clip.

    Raises:
        MediaError: the clip is refused.
    """
    found = probe(path, limits=limits, thorough=thorough, threads=1)
    return Clip(
        digest=digest_of(path),
        name=name,
        recording=recording_of(name),
        size_bytes=path.stat().st_size,
        seconds=found.seconds,
        fps=found.fps,
        width=found.width,
        height=found.height,
        codec=found.codec,
        rotation=found.rotation,
        variable=found.variable,
        audio=found.audio,
        fingerprint=found.fingerprint,
    )


def read_clips(
    files: Iterable[tuple[str, Path]],
    *,
    limits: MediaLimits | None = None,
    thorough: bool = True,
    progress: Progress | None = None,
    workers: int | None = None,
) -> dict[str, Clip | MediaError]:
    """Hash and probe clips side by side, each file once; the refusal of one does not stop the others.

    Args:
        files: name as the source spells it, and local path.
        thorough: decode each clip wholly, so that damage is found now and not in the middle of a run.

    Returns:
        For each name its clip, or why it is refused.
    """
    names = dict(files)
    found: dict[str, Clip | MediaError] = {}
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        jobs = {
            pool.submit(read_clip, path, name, limits=limits, thorough=thorough): name for name, path in names.items()
        }
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                found[jobs[job]] = job.result()
            except MediaError as error:
                found[jobs[job]] = error
            if progress is not None:
                progress(done, len(jobs))
    return found
