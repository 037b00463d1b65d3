"""Datasets and models into the store: what `roadqa import` and `roadqa models pull` do."""

import csv
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from services.sandbox import clips as sandbox
from shared.errors import InputError, UsageError
from shared.formats import parts, roadbuddy
from shared.formats.common import Imported
from shared.schema import Frozen, Question
from shared.store import Manifest, Store

#: `progress(what, done, total)`
Progress = Callable[[str, int, int], None]

SANDBOX_MODEL = "sandbox-tiny"
_SANDBOX_FOLDER = Path(sandbox.__file__).parent / "base"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: What a checkpoint needs and may hold: weights as safetensors, the rest as text.
_MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


class Import(Frozen):
    """What an import did."""

    dataset: str
    artifact: str
    parts: int
    questions: int
    clips: int
    problems: tuple[str, ...]


class SandboxData(Frozen):
    """A `{import: sandbox, …}` entry of a pipeline file's `data`. Every field decides the clips."""

    split: Literal["train", "public-test", "held-out"]  #: the public test comes without answers
    recordings: int = Field(ge=1)
    clips_per_recording: int = Field(4, ge=1)
    questions_per_clip: int = Field(4, ge=1)
    seed: int = 0

    @property
    def name(self) -> str:
        size = f"{self.recordings}x{self.clips_per_recording}x{self.questions_per_clip}"
        return f"sandbox-{self.split}-{size}-{self.seed}"


class RoadBuddyData(Frozen):
    """An `{import: roadbuddy, …}` entry of a pipeline file's `data`."""

    file: Path
    videos: Path
    name: str
    answers: Path | None = None  #: CSV (id,answer) for a file that has no answers
    strict: bool = False


def store_dataset(store: Store, name: str, imported: Imported, progress: Progress) -> Import:
    """Upload the good rows, cut into parts, and give the dataset its name."""
    if not imported.questions:
        raise InputError(f"{name}: no usable row: " + "; ".join(imported.problems[:3]))
    with tempfile.TemporaryDirectory() as folder:
        folders = parts.cut_parts(imported, Path(folder))
        artifacts = []
        for number, part in enumerate(folders, 1):
            artifacts.append(store.put_artifact("rows", part))
            progress("upload", number, len(folders))
    dataset = store.put_manifest(Manifest(kind="dataset", parts=tuple(sorted(artifacts))))
    store.set_name("datasets", name, dataset)
    return Import(
        dataset=name,
        artifact=dataset,
        parts=len(artifacts),
        questions=len(imported.questions),
        clips=len(imported.clips),
        problems=tuple(imported.problems),
    )


def import_roadbuddy(store: Store, data: RoadBuddyData, progress: Progress) -> Import:
    """Import a RoadBuddy file; with `strict` any problem is an error and nothing is stored."""
    imported = roadbuddy.read(data.file, data.videos, progress=lambda done, total: progress("read", done, total))
    if data.answers:
        imported.questions[:] = with_answers(imported.questions, data.answers)
    if data.strict and imported.problems:
        problems = "\n".join(imported.problems)
        raise InputError(f"{len(imported.problems)} problems, nothing imported (--strict):\n{problems}")
    return store_dataset(store, data.name, imported, progress)


def with_answers(questions: list[Question], file: Path) -> list[Question]:
    """Add the answers of a CSV (`id,answer`, the letter of a choice) to questions that have none.

    Raises:
        InputError: an id or a letter that the questions do not have; names the file and the row.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if not {"id", "answer"} <= set(rows.fieldnames or ()):
                raise InputError(f"{file}: its first line must be id,answer")
            letters = {row["id"]: (row["answer"] or "").strip().upper() for row in rows}
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8: {error}") from error
    if unknown := letters.keys() - {question.id for question in questions}:
        raise InputError(f"{file}: id {min(unknown)}: no such question in the imported file")
    return [
        _answered(question, letters[question.id], file) if question.id in letters else question
        for question in questions
    ]


def _answered(question: Question, letter: str, file: Path) -> Question:
    fits = [index for index, choice in enumerate(question.choices) if choice.label.upper() == letter]
    if len(fits) != 1:
        raise InputError(f"{file}: id {question.id}: {letter!r} names {len(fits)} of its choices, not one")
    origin = question.origin.model_copy(update={"answer": "human"})
    return question.model_copy(update={"answer": fits[0], "origin": origin})


def import_sandbox(store: Store, data: SandboxData, progress: Progress) -> Import:
    """Draw the clips and import them, through the same door as any other data."""
    with tempfile.TemporaryDirectory() as folder:
        questions = sandbox.draw(
            Path(folder),
            seed=data.seed,
            recordings=data.recordings,
            clips_per_recording=data.clips_per_recording,
            questions_per_clip=data.questions_per_clip,
            split=data.split,
            progress=lambda done, total: progress("draw", done, total),
        )
        imported = roadbuddy.read(
            questions,
            Path(folder),
            test=data.split == "public-test",
            progress=lambda done, total: progress("read", done, total),
        )
        return store_dataset(store, data.name, imported, progress)


def resolve_data(store: Store, name: str, source: str | dict[str, Any], progress: Progress) -> tuple[str, ...]:
    """The parts of a pipeline file's data entry, imported first where it says how and is not there yet.

    Raises:
        UsageError: no such dataset, or an import that is not understood; says what to do.
    """
    if isinstance(source, str):
        artifact = store.named("datasets", source)
        if artifact is None:
            known = ", ".join(store.names("datasets")) or "none"
            raise UsageError(f"data.{name}: no dataset is called {source!r} (there are: {known}); see `roadqa import`")
        return store.manifest(artifact).parts
    values = dict(source)
    kind = values.pop("import", None)
    if kind == "sandbox":
        wanted = SandboxData.model_validate(values)
        artifact = store.named("datasets", wanted.name) or import_sandbox(store, wanted, progress).artifact
    elif kind == "roadbuddy":
        artifact = import_roadbuddy(store, RoadBuddyData.model_validate(values), progress).artifact
    else:
        raise UsageError(f"data.{name}.import: must be sandbox or roadbuddy, not {kind!r}")
    return store.manifest(artifact).parts


def pull_model(store: Store, source: str, name: str | None, progress: Progress) -> tuple[str, str]:
    """Bring a checkpoint into the store: a local folder, `sandbox-tiny`, or a Hugging Face id.

    Returns:
        Its name and artifact.

    Raises:
        InputError: the folder is no safetensors checkpoint.
    """
    if source == SANDBOX_MODEL:
        return _store_model(store, _SANDBOX_FOLDER, name or SANDBOX_MODEL, progress)
    if Path(source).is_dir():
        return _store_model(store, Path(source), name or Path(source).resolve().name, progress)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(source, allow_patterns=_MODEL_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{source} is neither a local folder nor a model that Hugging Face gives out here: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return _store_model(store, Path(folder), name or source.rsplit("/", 1)[-1], progress)


def _store_model(store: Store, folder: Path, name: str, progress: Progress) -> tuple[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not (folder / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"{folder}: not a checkpoint: it needs config.json and *.safetensors")
    if pickles := _names(path for path in files if path.suffix in _PICKLES):
        raise InputError(f"{folder}: holds {pickles}, which can run code when loaded: keep safetensors only")
    artifact = store.put_artifact("model", folder, on_file=lambda done, total: progress("upload", done, total))
    store.set_name("models", name, artifact)
    return name, artifact


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


def resolve_model(store: Store, name: str, source: str, progress: Progress) -> str:
    """The artifact of a pipeline file's model entry: a pulled name, or an artifact's id."""
    if source == SANDBOX_MODEL:  # it comes with this version of the project, whatever is in the store
        return pull_model(store, source, None, progress)[1]
    found = store.named("models", source)
    if found is None and len(source) == 64 and store.exists(f"artifacts/{source}"):
        return source
    if found is None:
        known = ", ".join(store.names("models")) or "none"
        raise UsageError(
            f"models.{name}: {source!r} is not in the store (there are: {known}); `roadqa models pull {source}`"
        )
    return found
