"""Clips at Gemini's file service: sent once each, whoever asks about them, and deleted when they are done with."""

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from google.genai import types
from google.genai.client import AsyncClient

from shared.errors import UsageError
from shared.teachers.media import mime_type
from shared.teachers.teacher import TeacherError
from shared.teachers.tries import Patience

AT_ONCE = 8  #: uploads under way; they are not in the requests' pace
FRESH_S = 40 * 3600.0  #: the service keeps a file for 48 hours, and a batch job may look at it late


T = TypeVar("T")


class Call(Protocol):
    async def __call__(self, answer: Awaitable[T]) -> T: ...


class _Sent(NamedTuple):
    file: "asyncio.Task[types.File]"
    when: float


class Uploads:
    """Files by the clip's digest. Those who ask for the same clip wait for the same upload."""

    def __init__(self, client: AsyncClient, call: Call, patience: Patience) -> None:
        """`call`: awaits what the client answers, and types its errors."""
        self._client, self._call, self._patience = client, call, patience
        self._sent: dict[str, _Sent] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def get(self, digest: str, clip: Path) -> types.File:
        """The clip's file, usable now; sent first where it is not there.

        Raises:
            TeacherError: it was not taken (`rejected`), or did not become usable in time (`stuck`).
        """
        now = asyncio.get_running_loop().time()
        sent = self._sent.get(digest)
        if sent is None or now - sent.when > FRESH_S or _failed(sent.file):
            sent = self._sent[digest] = _Sent(asyncio.create_task(self._send(clip)), now)
        return await asyncio.shield(sent.file)  # one who is cancelled does not end it for the others

    async def _send(self, clip: Path) -> types.File:
        with clip.open("rb") as head:
            kind = mime_type(head.read(16))
        return await self._usable(await self.send(clip, kind), clip)

    async def send(self, path: Path, mime_type: str) -> types.File:
        """Send a file, and do not wait for it to become usable."""
        config = types.UploadFileConfig(mime_type=mime_type)
        async with self._slots:
            return await self._call(self._client.files.upload(file=str(path), config=config))

    async def _usable(self, file: types.File, clip: Path) -> types.File:
        for _ in range(self._patience.polls):
            if file.state == types.FileState.ACTIVE:
                return file
            if file.state == types.FileState.FAILED:
                await self.delete(file.name)
                raise TeacherError("rejected", f"the service could not process the clip {clip.name}")
            await asyncio.sleep(self._patience.poll_s)
            file = await self._call(self._client.files.get(name=file.name or ""))
        await self.delete(file.name)
        raise TeacherError("stuck", f"the clip {clip.name} was sent but did not become usable")

    def forget(self, digest: str) -> None:
        """The service does not know the file any more, or will not give it."""
        sent = self._sent.get(digest)
        if sent is not None and sent.file.done():
            del self._sent[digest]

    async def release(self, digest: str) -> None:
        sent = self._sent.pop(digest, None)
        if sent is None:
            return
        if not sent.file.done():
            sent.file.cancel()  # what has arrived of it expires by itself
        elif not _failed(sent.file):
            await self.delete(sent.file.result().name)

    async def delete(self, name: str | None) -> None:
        """Delete a file. One that cannot be deleted expires by itself."""
        with contextlib.suppress(TeacherError, UsageError):
            await self._call(self._client.files.delete(name=name or ""))

    async def aclose(self, *, keep: bool = False) -> None:
        """Delete all; with `keep`, leave them for a job that looks at them."""
        if keep:
            self._sent.clear()
        for digest in list(self._sent):
            await self.release(digest)


def _failed(file: "asyncio.Task[types.File]") -> bool:
    return file.done() and (file.cancelled() or file.exception() is not None)
