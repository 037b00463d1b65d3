"""A dataset as parts: rows artifacts cut by clip, so that new rows disturb few of them.

A part holds the clips whose digest starts with the same bits. How many bits follows from the number
of clips alone, so a dataset is cut anew only when it has doubled.
"""

from collections import defaultdict
from pathlib import Path

from shared.formats.common import Imported
from shared.schema import Question, write_rows

CLIPS_PER_PART = 32  #: aimed at; a part may hold somewhat more, as digests fall


def bucket_bits(clips: int) -> int:
    """Leading digest bits that name a part: the fewest that leave `CLIPS_PER_PART` clips or fewer on average."""
    return max(0, (-(-clips // CLIPS_PER_PART) - 1).bit_length())


def bucket(digest: str, bits: int) -> int:
    """The part of a clip: the first `bits` bits of its SHA-256."""
    return int(digest, 16) >> (4 * len(digest) - bits)


def cut_parts(imported: Imported, folder: Path) -> list[Path]:
    """Write `imported` as rows artifacts under `folder`, each with its clips linked in; returns their paths, sorted.

    A clip without a local path is in the store already.
    """
    bits = bucket_bits(len({question.clip for question in imported.questions}))
    by_part: dict[int, list[Question]] = defaultdict(list)
    for question in imported.questions:
        by_part[bucket(question.clip, bits)].append(question)
    parts = []
    for number, questions in sorted(by_part.items()):
        part = folder / f"{1 << bits:04d}-{number:04d}"
        write_rows(part, questions, imported.clips)
        _link_clips(part / "clips", imported, {question.clip for question in questions})
        parts.append(part)
    return parts


def _link_clips(folder: Path, imported: Imported, digests: set[str]) -> None:
    folder.mkdir()
    for digest in digests & imported.paths.keys():
        (folder / digest).symlink_to(imported.paths[digest].resolve())
