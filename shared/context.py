"""What a verb may ask of the world: report progress, learn that it must stop, keep durable bytes."""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from shared.errors import LimitReachedError


class Scratch(Protocol):
    """Durable bytes by key that outlive the process. Put if absent: the first bytes under a key stay."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes) -> None: ...

    def keys(self, prefix: str = "") -> Iterator[str]: ...

    def put_folder(self, name: str, folder: Path) -> None:
        """Keep a whole folder under `name`, visible only once complete."""
        ...

    def get_folder(self, name: str, folder: Path) -> bool:
        """Bring the folder kept under `name` back into `folder`; False where there is none."""
        ...

    def folders(self) -> list[str]:
        """Names of the complete folders, sorted."""
        ...

    def drop_folder(self, name: str) -> None: ...


class Purse(Protocol):
    """What requests that cost money are paid from. Amounts are US dollars."""

    def reserve(self, usd: float | None) -> bool:
        """Set aside what a request is expected to cost, before it is made; None where its price is not known.

        Returns:
            False where what others have reserved must settle first: try again in a moment.

        Raises:
            LimitReachedError: the run may spend no more (`shared/errors.py`).
        """
        ...

    def settle(self, reserved: float | None, usd: float) -> None:
        """Pay what it did cost, and give back what was reserved."""
        ...


class Context(Protocol):
    """Given to every verb."""

    @property
    def scratch(self) -> Scratch: ...

    @property
    def purse(self) -> Purse: ...

    @property
    def stopping(self) -> bool:
        """True once the work should be put down: keep what you have in scratch and raise `Stopped`."""
        ...

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        """Report how far the work is; `facts` (loss, cost, …) are shown beside rate and ETA."""
        ...


#: A verb: local input folders by name, a recipe, an empty output folder, a context → facts (JSON).
Verb = Callable[[dict[str, list[Path]], Any, Path, Context], dict[str, Any]]


class FolderScratch:
    """Scratch in a plain folder: for unit tests and for verbs run by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._bytes, self._folders = root / "bytes", root / "folders"
        self._bytes.mkdir(parents=True, exist_ok=True)
        self._folders.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        path = self._bytes / key
        return path.read_bytes() if path.is_file() else None

    def put(self, key: str, data: bytes) -> None:
        path = self._bytes / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folders, prefix=".") as draft:
            draft.write(data)
            draft.flush()
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, path)  # whole or not at all, whenever the process is killed

    def keys(self, prefix: str = "") -> Iterator[str]:
        for path in sorted(self._bytes.rglob("*")):
            key = path.relative_to(self._bytes).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield key

    def put_folder(self, name: str, folder: Path) -> None:
        incoming = self._folders / f".{name}"
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(folder, incoming)
        if not (self._folders / name).exists():
            incoming.rename(self._folders / name)

    def get_folder(self, name: str, folder: Path) -> bool:
        if not (self._folders / name).is_dir():
            return False
        shutil.copytree(self._folders / name, folder, dirs_exist_ok=True)
        return True

    def folders(self) -> list[str]:
        return sorted(path.name for path in self._folders.iterdir() if not path.name.startswith("."))

    def drop_folder(self, name: str) -> None:
        shutil.rmtree(self._folders / name, ignore_errors=True)


class LocalPurse:
    """A purse for one process alone."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.spent, self._reserved = limit, 0.0, 0.0  #: US dollars
        self._lock = threading.Lock()

    def reserve(self, usd: float | None) -> bool:
        with self._lock:
            if self.limit is not None and self.spent + (usd or 0.0) > self.limit:
                raise LimitReachedError(f"the limit of ${self.limit:g} is reached: ${self.spent:.4f} are spent")
            if self.limit is not None and self.spent + self._reserved + (usd or 0.0) > self.limit:
                return False
            self._reserved += usd or 0.0
            return True

    def settle(self, reserved: float | None, usd: float) -> None:
        with self._lock:
            self.spent += usd
            self._reserved -= reserved or 0.0


class LocalContext:
    """A context without a stage round it. `stop()` asks the verb to stop."""

    def __init__(self, scratch: Path) -> None:
        self.scratch: Scratch = FolderScratch(scratch)
        self.purse: Purse = LocalPurse()
        self.stopping = False
        self.reports: list[tuple[float, float, str, dict[str, float | str]]] = []

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        self.reports.append((done, total, unit, facts))

    def stop(self) -> None:
        self.stopping = True
