"""Datasets and models into the store: what `roadqa import` and `roadqa models pull` do."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from pydantic import AfterValidator, Field, ValidationError

from services.sandbox import clips as sandbox
from shared import sums
from shared.errors import InputError, UsageError
from shared.formats import parts, registry, roadbuddy
from shared.formats.answers import add_answers
from shared.formats.common import Imported, one_line
from shared.pipeline import Pipeline
from shared.schema import Frozen
from shared.store import Manifest, Store, file_digest

#: `progress(what, done, total)`
Progress = Callable[[str, int, int], None]

SANDBOX_MODEL = "sandbox-tiny"
SANDBOX_FOLDER = Path(sandbox.__file__).parent / "base"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: What a checkpoint needs and may hold: weights as safetensors, the rest as text.
_MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_LONGEST_NAME = 255  # bytes: what a store on a disk can hold
_ARTIFACT = re.compile(r"[0-9a-f]{64}")


def _there(path: Path) -> Path:
    if not os.path.exists(path):  # unlike Path.exists, False for what no disk can hold
        raise ValueError(f"{path} is not there")
    return path


Existing = Annotated[Path, AfterValidator(_there)]


class Import(Frozen):
    """What an import did."""

    dataset: str
    artifact: str
    parts: int
    questions: int
    clips: int
    recordings: int  #: that the clips were cut from
    problems: tuple[str, ...]

    @property
    def summary(self) -> str:
        left_out = f"; {len(self.problems)} problems, listed above" if self.problems else ""
        count = f"{self.questions} questions on {self.clips} clips of {self.recordings} recordings"
        return f"{self.dataset}: {count}, in {self.parts} parts{left_out}"


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


class FileData(Frozen):
    """An `{import: FORMAT, …}` entry of a pipeline file's `data`, for each format of `shared.formats.registry`."""

    format: str = Field(alias="import")
    file: Existing
    videos: Existing
    name: str
    answers: Existing | None = None  #: CSV (id,answer) for a file that has no answers
    test: bool | None = None  #: whether the clips are a test set's; None: as the file's name, or a row's split, says
    strict: bool = False


_IMPORTS = ("sandbox", *registry.FORMATS)


def check_name(name: str, where: str, remedy: str) -> None:
    """Refuse what can be no name in the store.

    Raises:
        UsageError: says where the name stands, and the remedy.
    """
    if not name.isprintable() or {"", ".", ".."} & set(name.split("/")) or len(name.encode()) > _LONGEST_NAME:
        rule = f"up to {_LONGEST_NAME} printable bytes, no part between slashes empty, . or .."
        raise UsageError(one_line(f"{where}: {name[:80]!r} cannot be a name ({rule}); {remedy}"))


def check(pipeline: Pipeline) -> None:
    """Look at a pipeline file's data and models without the store, before anything is imported.

    Raises:
        UsageError: a name that cannot be, or an import that is not understood; names the entry and the field.
    """
    for name, entry in pipeline.data.items():
        _understood(name, entry)
    for name, source in pipeline.models.items():
        _check_model(name, source)


def _understood(name: str, entry: str | dict[str, Any]) -> str | SandboxData | FileData:
    """A data entry: the name of a dataset, or what is to be imported."""
    where = f"data.{name}"
    if isinstance(entry, str):
        check_name(entry, where, "see `roadqa import`")
        return entry
    kind = entry.get("import")
    if kind not in _IMPORTS:
        raise UsageError(one_line(f"{where}.import: must be {', '.join(_IMPORTS)}, not {kind!r}"))
    wanted: SandboxData | FileData
    try:
        if kind == "sandbox":
            wanted = SandboxData.model_validate({field: value for field, value in entry.items() if field != "import"})
        else:
            wanted = FileData.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise UsageError(one_line(f"{where}.{'.'.join(map(str, first['loc']))}: {reason}")) from error
    check_name(wanted.name, f"{where}.name", "choose another")
    return wanted


def dataset_name(name: str, source: str | dict[str, Any]) -> str:
    """What the dataset of a data entry is called in the store.

    Raises:
        UsageError: an import that is not understood.
    """
    wanted = _understood(name, source)
    return wanted if isinstance(wanted, str) else wanted.name


def _check_model(name: str, source: str) -> None:
    check_name(source, f"models.{name}", f"`roadqa models pull {shlex.quote(source[:80])}` gives it one")


def store_dataset(store: Store, name: str, imported: Imported, progress: Progress) -> Import:
    """Upload the good rows, cut into parts, and give the dataset its name.

    What the store has already, from this dataset or any other, is not sent again: a broken upload goes on.
    """
    if not imported.questions:
        raise InputError(f"{name}: no usable row: " + "; ".join(imported.problems[:3]))
    with tempfile.TemporaryDirectory() as folder:
        folders = parts.cut_parts(imported, Path(folder))
        artifacts: list[str] = []
        files = [sum(path.is_file() for path in part.rglob("*")) for part in folders]
        for number, part in enumerate(folders):

            def told(done: int, _: int, before: int = sum(files[:number])) -> None:
                progress("upload", before + done, sum(files))

            artifacts.append(store.put_artifact("rows", part, on_file=told))
    dataset = store.put_manifest(Manifest(kind="dataset", parts=tuple(sorted(artifacts))))
    store.set_name("datasets", name, dataset)
    return Import(
        dataset=name,
        artifact=dataset,
        parts=len(artifacts),
        questions=len(imported.questions),
        clips=len(imported.clips),
        recordings=len({clip.recording for clip in imported.clips.values()}),
        problems=tuple(imported.problems),
    )


def import_file(store: Store, data: FileData, progress: Progress) -> Import:
    """Import a data file; with `strict` any problem is an error and nothing is stored."""
    check_name(data.name, "--name", "choose another")
    imported = registry.read(
        data.format, data.file, data.videos, test=data.test, progress=lambda done, total: progress("read", done, total)
    )
    if data.answers:
        add_answers(imported, data.answers)
    if data.strict and imported.problems:
        problems = "\n".join(imported.problems)
        raise InputError(f"{len(imported.problems)} problems, nothing imported (--strict):\n{problems}")
    return store_dataset(store, data.name, imported, progress)


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


def write_clips(store: Store, names: Mapping[str, str], folder: Path, progress: Progress) -> None:
    """Write clips into `folder`, each under its name (by digest); those that are there already stay.

    Raises:
        InputError: another file has the name of one.
    """
    for number, (digest, name) in enumerate(names.items(), 1):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with store.workspace() as space:
                store.get_blob(digest, space / "clip")
                draft = path.with_name(f".{digest}.{os.getpid()}")
                shutil.copyfile(space / "clip", draft)
                draft.replace(path)
        elif file_digest(path) != digest:
            raise InputError(f"{path}: is another file than the clip of that name; give an empty folder")
        progress("clips", number, len(names))


def tell_problems(done: Import) -> None:
    """What was left out, a line each, on stderr."""
    for problem in done.problems:
        click.echo(f"left out: {problem}", err=True)


def resolve_data(store: Store, name: str, source: str | dict[str, Any], progress: Progress) -> tuple[str, ...]:
    """The parts of a pipeline file's data entry, imported first where it says how and is not there yet.

    What an import did is told on stderr: stdout is the run's.

    Raises:
        UsageError: no such dataset, or an import that is not understood; says what to do.
    """
    wanted = _understood(name, source)
    known_as = wanted if isinstance(wanted, str) else wanted.name
    if not isinstance(wanted, FileData) and (artifact := store.named("datasets", known_as)):
        return store.manifest(artifact).parts
    if isinstance(wanted, str):
        known = ", ".join(store.names("datasets")) or "none"
        raise UsageError(f"data.{name}: no dataset is called {wanted!r} (there are: {known}); see `roadqa import`")
    if isinstance(wanted, SandboxData):
        done = import_sandbox(store, wanted, progress)
    else:
        done = import_file(store, wanted, progress)
    tell_problems(done)
    click.echo(done.summary, err=True)
    return store.manifest(done.artifact).parts


def pull_model(store: Store, source: str, name: str | None, progress: Progress) -> tuple[str, str]:
    """Bring a checkpoint into the store: a local folder, `sandbox-tiny`, or a Hugging Face id.

    Returns:
        Its name and artifact.

    Raises:
        InputError: the folder is no safetensors checkpoint.
        UsageError: it cannot be called so.
    """
    # a folder has a name however it is spelled: `.` is `my-model`
    own = Path(source).resolve().name if Path(source).is_dir() else source.rsplit("/", 1)[-1]
    known_as = own if name is None else name
    check_name(known_as, "--name", "choose another")
    if source == SANDBOX_MODEL:
        return _store_model(store, SANDBOX_FOLDER, known_as, progress)
    if Path(source).is_dir():
        return _store_model(store, Path(source), known_as, progress)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(source, allow_patterns=_MODEL_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{source} is neither a local folder nor a model that Hugging Face gives out here: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return _store_model(store, Path(folder), known_as, progress)


def _store_model(store: Store, folder: Path, name: str, progress: Progress) -> tuple[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not (folder / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"{folder}: not a checkpoint: it needs config.json and *.safetensors")
    if pickles := _names(path for path in files if path.suffix in _PICKLES):
        raise InputError(f"{folder}: holds {pickles}, which can run code when loaded: keep safetensors only")
    sums.check(folder)
    artifact = store.put_artifact("model", folder, on_file=lambda done, total: progress("upload", done, total))
    store.set_name("models", name, artifact)
    return name, artifact


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


def find_model(store: Store, source: str) -> str | None:
    """The artifact that goes by a name, or by its own id; None where there is none."""
    found = store.named("models", source)
    if found is None and _ARTIFACT.fullmatch(source) and store.exists(f"artifacts/{source}"):
        return source
    return found


def resolve_model(store: Store, name: str, source: str, progress: Progress) -> str:
    """The artifact of a pipeline file's model entry: a pulled name, or an artifact's id.

    Raises:
        UsageError: no such model, or an artifact that is none; says what to do.
    """
    if source == SANDBOX_MODEL:  # it comes with this version of the project, whatever is in the store
        return pull_model(store, source, None, progress)[1]
    _check_model(name, source)
    found = find_model(store, source)
    if found is None:
        known = ", ".join(store.names("models")) or "none"
        remedy = f"`roadqa models pull {shlex.quote(source)}`"
        raise UsageError(f"models.{name}: {source!r} is not in the store (there are: {known}); {remedy}")
    if (kind := store.manifest(found).kind) != "model":
        remedy = f"`roadqa trace {found[:12]}` shows where it comes from"
        raise UsageError(f"models.{name}: artifact {found[:12]} is {kind}, not a model; {remedy}")
    return found
