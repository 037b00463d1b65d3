"""What an image holds, layer by layer, also what a later layer took away again."""

import gzip
import io
import tarfile
from collections.abc import Collection
from typing import IO, cast

_CHUNK = 1 << 22
_GZIP = b"\x1f\x8b"


def found(saved: IO[bytes], wanted: Collection[str]) -> set[str]:
    """Which of `wanted` stand anywhere in what `docker save` gives: in a layer, or in what is told about them.

    containerd's image store packs its layers; they are unpacked.
    """
    needles = {one: one.encode() for one in wanted}
    longest = max(map(len, needles.values()))
    seen: set[str] = set()
    with tarfile.open(fileobj=saved, mode="r|") as image:
        for member in image:
            file = cast(io.BufferedReader | None, image.extractfile(member))
            if file is None:
                continue
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if file.peek(2).startswith(_GZIP) else file
            text = b""
            while chunk := stream.read(_CHUNK):
                text = text[1 - longest :] + chunk
                seen |= {one for one, needle in needles.items() if needle in text}
    return seen
