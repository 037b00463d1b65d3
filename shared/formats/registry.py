"""The data formats by name: what `roadqa import`, `roadqa datasets export` and pipeline files know.

A format is a module with `read(path, videos, **options)`, and with `write(folder, questions, names, recordings)` where
it is exported too. It is loaded when it is used: one of them needs pyarrow.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Unpack
from unicodedata import normalize

from shared.formats.common import Imported
from shared.formats.rows import Options
from shared.schema import Clip, Question


class Format(NamedTuple):
    """A data format; its module reads it and may write it."""

    module: str
    what: str  #: of which file
    videos: str  #: what its clips' names start from
    example: str  #: arguments of `roadqa import`
    writes: str = ""  #: the file that an export begins with


FORMATS = {
    "roadbuddy": Format(
        "roadbuddy", "a RoadBuddy file (train.json, public_test.json)", "the file's video_path entries start from",
        "train/train.json --videos . --name train", "roadbuddy.json",
    ),
    "sutd": Format(
        "sutd", "a SUTD-TrafficQA file (R2_all.jsonl)", "holds the clips",
        "R2_train.jsonl --videos compressed_videos --name sutd-train",
    ),
    "videomme": Format(
        "videomme", "a Video-MME style JSON file", "holds the clips, itself or in folders below it",
        "videomme.json --videos videos --name videomme",
    ),
    "nextqa": Format(
        "nextqa", "a NExT-QA multiple-choice CSV", "holds the clips, itself or in folders below it",
        "mc/train.csv --videos NExTVideo --name nextqa-train",
    ),
    "sharegpt": Format(
        "sharegpt", "LLaVA / ShareGPT video JSON (ms-swift, LLaMA-Factory, Qwen's trainer)",
        "the clips' paths start from",
        "train.json --videos data --name train", "sharegpt.json",
    ),
    "csv": Format(
        "plain_csv", "a plain CSV (video, question, choice_a, choice_b, …, answer)", "the column video starts from",
        "questions.csv --videos clips --name mine",
    ),
    "huggingface": Format(
        "huggingface", "a parquet file that `roadqa datasets export --to huggingface` wrote",
        "the column video starts from",
        "exported/data/train.parquet --videos exported --name train", "data/train.parquet",
    ),
}  # fmt: skip
EXPORTS = tuple(name for name, format_ in FORMATS.items() if format_.writes)


def read(name: str, path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a file of the format called `name`, and its clips.

    Raises:
        InputError: the file itself cannot be read; what is wrong with a row is among the problems.
    """
    found: Imported = _module(name).read(path, videos, **options)
    return found


def write(name: str, folder: Path, questions: Iterable[Question], clips: Mapping[str, Clip]) -> list[str]:
    """Write questions in the format called `name`, their clips named by `layout`.

    Returns:
        A line for each question that the format cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {digest: clip.recording for digest, clip in clips.items()}
    problems: list[str] = _module(name).write(folder, questions, layout(clips.values()), recordings)
    return problems


def _module(name: str) -> Any:
    return import_module(f"shared.formats.{FORMATS[name].module}")


def layout(clips: Iterable[Clip]) -> dict[str, str]:
    """Where each clip stands in an exported folder, by digest: under its own name where that can be.

    A name that leads out of the folder, that another clip has on some file system, or that is another's folder
    gives way to the digest.
    """
    wanted = {clip.digest: PurePosixPath(clip.name.replace("\\", "/")) for clip in clips}
    taken: set[str] = set(_OWN)
    placed: dict[str, str] = {}
    for digest, path in sorted(wanted.items()):
        keys = [normalize("NFC", str(part)).casefold() for part in (path, *path.parents)][:-1]
        unsafe = path.is_absolute() or ".." in path.parts or not keys
        if unsafe or keys[0] in taken or any(f"{key}\0" in taken for key in keys[1:]):
            placed[digest] = f"{digest}{path.suffix.lower()}"
            continue
        taken |= {keys[0], f"{keys[0]}\0", *keys[1:]}
        placed[digest] = str(path)
    return placed


#: The files that an export writes beside the clips.
_OWN = (
    "readme.md",
    "dataset_info.json",
    "roadbuddy.json",
    "sharegpt.json",
    "data",
    "data/train.parquet",
    "data/test.parquet",
)
