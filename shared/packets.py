"""Which coded pictures must be decoded to show some of them: told from the packets' first bytes alone.

A picture that no other leans on (*spare*: a B-frame, as a rule) need not be decoded unless it is wanted itself, and
nothing between a wanted picture and the next *closed* key frame, one that no later picture leans back across.
Sources: ITU-T H.264 (7.3.1, 7.4.1: nal_ref_idc, IDR), H.265 (7.4.2.2: sub-layer non-reference pictures), H.262
(6.3.9: picture_coding_type), ISO/IEC 14496-2 (6.3.5: vop_coding_type), 14496-15 (how long a NAL unit's length is).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

_LOOK_BACK = 3  #: key frames; a picture shown before its own key frame leans on the one before that
#: Units of one packet that are looked at. HEVC allows 600 slices; a packet of more is made to cost time.
_MOST = 1024

Found = TypeVar("Found")


class Packet(NamedTuple):
    """One coded picture of a stream."""

    pts: int  #: in the stream's time base
    keyframe: bool
    coded: bool  #: False for the placeholders of a few bytes that old AVI encoders write
    spare: bool = False  #: no other picture leans on it
    closed: bool = False  #: a key frame across which no later picture leans back


Nature = Callable[[bytes, bool], tuple[bool, bool]]  #: (a packet, is it a key frame) → (spare, closed)


def nature_of(codec: str, extradata: bytes | None) -> Nature:
    """How to tell a packet's nature in this codec (ffmpeg's name of its decoder)."""
    head = extradata or b""
    if codec == "h264":
        length = (head[4] & 3) + 1 if head[:1] == b"\1" and len(head) > 4 else 0
        return lambda data, key: _h264(_units(data, length), key)
    if codec == "hevc":
        described = head[:1] == b"\1" and len(head) > 21
        length = (head[21] & 3) + 1 if described else 0
        # Where there are several temporal sub-layers, those above may lean on any picture of those below.
        one_layer = described and head[21] >> 3 & 7 == 1
        return lambda data, key: _hevc(_units(data, length), key, one_layer)
    if codec in ("mpeg1video", "mpeg2video"):
        return lambda data, key: (_only(data, b"\0\0\1\0", lambda rest: rest[1] >> 3 & 7, 3), key)
    if codec == "mpeg4":
        return lambda data, key: (_only(data, b"\0\0\1\xb6", lambda rest: rest[0] >> 6, 2), key)
    return lambda data, key: (False, key)


def _units(data: bytes, length: int) -> Iterator[tuple[int, int]]:
    """The first two bytes of each NAL unit: after its length in `length` bytes, or after a start code (0)."""
    at = 0
    while True:
        if length:
            start = at + length
            at = start + int.from_bytes(data[at:start], "big")
        else:
            start = at = data.find(b"\0\0\1", at) + 3
            if start < 3:
                return
        if start + 1 >= len(data):
            return
        yield data[start], data[start + 1]


def _few(found: Iterator[Found]) -> list[Found]:
    """All of them; none where they are too many, which makes a packet one that is decoded whatever is wanted."""
    first = list(islice(found, _MOST))
    return [] if next(found, None) is not None else first


def _h264(units: Iterator[tuple[int, int]], key: bool) -> tuple[bool, bool]:
    slices = [first for first, _ in _few(units) if 1 <= first & 31 <= 5]
    spare = bool(slices) and all(first >> 5 & 3 == 0 for first in slices)
    return spare, key and bool(slices) and all(first & 31 == 5 for first in slices)


def _hevc(units: Iterator[tuple[int, int]], key: bool, one_layer: bool) -> tuple[bool, bool]:
    slices = [first >> 1 & 63 for first, _ in _few(units) if first >> 1 & 63 < 32]
    spare = one_layer and bool(slices) and all(kind < 16 and kind % 2 == 0 for kind in slices)
    return spare, key and bool(slices) and all(kind in (19, 20) for kind in slices)


def _only(data: bytes, mark: bytes, kind: Callable[[bytes], int], b_type: int) -> bool:
    """Whether each picture in the packet is a B-picture; `kind` reads the two bytes after the mark."""
    found = _few(len(rest) == 2 and kind(rest) == b_type for rest in _after(data, mark))
    return bool(found) and all(found)


def _after(data: bytes, mark: bytes) -> Iterator[bytes]:
    """The two bytes after each mark, fewer where the packet ends."""
    at = data.find(mark)
    while at >= 0:
        at += len(mark)
        yield data[at : at + 2]
        at = data.find(mark, at)


def by_turn(packets: Sequence[Packet]) -> list[Packet]:
    """The packets of a stream without display times (AVI, MPEG-4), each with the time at which its turn comes.

    A B-picture is shown at once, any other when the next such comes.
    """
    order: list[int] = []
    waiting: int | None = None
    for i, packet in enumerate(packets):
        if packet.spare:
            order.append(i)
            continue
        if waiting is not None:
            order.append(waiting)
        waiting = i
    if waiting is not None:
        order.append(waiting)
    stamps = sorted(packet.pts for packet in packets)
    turn = dict(zip(order, stamps, strict=True))
    return [packet._replace(pts=turn[i]) for i, packet in enumerate(packets)]


def needed(packets: Sequence[Packet], wanted: Iterable[int]) -> list[bool]:
    """For each packet (in decoding order) whether it must be decoded to show the pictures at the `wanted` pts."""
    targets = set(wanted)
    keys = [i for i, packet in enumerate(packets) if packet.closed]
    spans: list[tuple[int, int]] = []
    for i, packet in enumerate(packets):
        if packet.pts in targets:
            spans.append((_start(packets, keys, i), i))
    marks = [False] * len(packets)
    done = 0
    for first, last in sorted(spans):
        for i in range(max(first, done), last + 1):
            marks[i] = not packets[i].spare
        done = max(done, last + 1)
    for _, last in spans:
        marks[last] = True
    return marks


def _start(packets: Sequence[Packet], keys: list[int], target: int) -> int:
    """Where decoding begins for `packets[target]`: the last closed key frame that is shown no later than it."""
    at = bisect_right(keys, target)
    for i in keys[max(0, at - _LOOK_BACK) : at][::-1]:
        if packets[i].pts <= packets[target].pts:
            return i
    return 0
