"""A model's files out of the store, with sums by which their arrival can be checked."""

import shutil
from pathlib import Path

from services.cli.data import Progress
from shared import sums
from shared.errors import UsageError
from shared.store import Store


def export(store: Store, artifact: str, output: Path, progress: Progress) -> int:
    """Copy a model's files into a new folder `output`; returns their bytes. It appears whole or not at all.

    Raises:
        UsageError: `output` is there already.
    """
    output = output.absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already: give a folder that is not")
    incoming = output.with_name(f".{output.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    files = store.manifest(artifact).files
    try:
        for done, file in enumerate(files, 1):
            target = incoming / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with store.workspace() as space:  # a copy: what is linked into the cache must not be written to
                store.get_blob(file.digest, space / "file")
                shutil.copyfile(space / "file", target)
            progress("export", done, len(files))
        sums.write(incoming, {file.path: file.digest for file in files})
        if output.exists():
            output.rmdir()
        incoming.rename(output)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return sum(file.size for file in files)
