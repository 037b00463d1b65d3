"""Find and edit the atoms of an MP4 file, to make its headers lie."""

import struct
from collections.abc import Iterator

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}


def walk(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset of the atom, its four letters), depth first."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        yield start, name
        if name in CONTAINERS:
            yield from walk(data, start + 8, start + size)
        start += max(8, size)


def find(data: bytes, name: bytes) -> int:
    """Offset of the first atom called `name`."""
    return next(offset for offset, found in walk(data) if found == name)


def patch(data: bytes, offset: int, new: bytes) -> bytes:
    """`data` with `new` written over it at `offset`."""
    return data[:offset] + new + data[offset + len(new) :]


def replace_body(data: bytes, name: bytes, body: bytes) -> bytes:
    """`data` with another body in the first atom called `name`; the sizes of all that hold it are made right.

    The media data must come before the index (no faststart), or its offsets would be wrong.
    """
    at = find(data, name)
    (size,) = struct.unpack_from(">I", data, at)
    grown = len(body) + 8 - size
    for offset, found in list(walk(data)):
        (old,) = struct.unpack_from(">I", data, offset)
        if offset == at or (found in CONTAINERS and offset < at < offset + old):
            data = patch(data, offset, struct.pack(">I", old + grown))
    return data[: at + 8] + body + data[at + size :]
