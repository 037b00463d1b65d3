"""What a clip's packets say of it, before anything is decoded.

Headers are not believed: length and frame rate come from the packets' own timestamps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet as Coded
from av.video.stream import VideoStream

from shared.container import OpenClip
from shared.packets import Packet, nature_of

SLACK = 0.5  #: seconds of picture that may be missing at either end before a clip counts as cut short
MAX_FPS = 1000.0  #: more than this is a lie in the timestamps
PLACEHOLDER = 8  #: bytes; a packet no larger than this holds no picture of its own
KEPT_BYTES = 64 << 20  #: a clip with more than this in its packets is read a second time instead
UNEVEN = 0.1  #: share of the usual time between two frames by which another may differ
UNEVEN_SHARE = 0.01  #: share of the frames that may come uneven before the frame rate counts as variable


class Timeline(NamedTuple):
    """What the packets say of a stream, in its time base."""

    packets: list[Packet]  #: in decoding order
    start: int
    seconds: float
    whole: bool  #: `packets` are all that the stream has
    audio: str
    kept: list[Coded[Any]] | None  #: all coded packets of the stream; None where they are too large

    @property
    def fps(self) -> float:
        """Average frame rate."""
        return round(len(self.packets) / self.seconds, 6) if self.seconds > 0 else float("inf")

    @property
    def variable(self) -> bool:
        """Whether the frames come at uneven intervals, beyond what a coarse time base makes of even ones."""
        steps = np.diff(np.sort([packet.pts for packet in self.packets]))
        usual = float(np.median(steps))
        return bool(np.mean(np.abs(steps - usual) > max(1.5, UNEVEN * usual)) > UNEVEN_SHARE)


def read_timeline(clip: OpenClip, container: InputContainer, stream: VideoStream) -> Timeline:
    """Read all packets, decode none. The clip starts at the first frame that can be decoded."""
    packets: list[Packet] = []
    kept: list[Coded[Any]] | None = []
    earliest, first_key, last = None, None, (0, 0)
    ends: dict[int, int] = {}  # of each stream, in its own time base
    read_bytes, whole = 0, True
    nature = nature_of(clip.codec, stream.codec_context.extradata)
    # Where the stream tells its length, the others' ends are not asked for, and their packets cost nothing.
    for packet in container.demux() if stream.duration is None else container.demux(stream):
        clip.check_clock()
        mine = packet.stream_index == stream.index
        if mine and packet.size:
            read_bytes += packet.size
            if read_bytes > KEPT_BYTES:
                kept = None
            elif kept is not None:
                kept.append(packet)
        stamp = packet.dts if packet.pts is None else packet.pts
        if mine and packet.is_keyframe and first_key is None:
            first_key = stamp
        if stamp is None or packet.is_discard:  # an edit list may hide a key frame that others lean on
            whole = whole and not (mine and packet.size)
            continue
        length = packet.duration or 0
        ends[packet.stream_index] = max(ends.get(packet.stream_index, 0), stamp + length)
        if not mine:
            continue
        earliest = stamp if earliest is None else min(earliest, stamp)
        if first_key is None or stamp < first_key:
            whole = False
            continue
        coded = packet.size > PLACEHOLDER
        whole = whole and packet.size > 0
        packets.append(Packet(stamp, packet.is_keyframe, coded, *nature(bytes(packet), packet.is_keyframe)))
        last = max(last, (stamp, length))
        if len(packets) > clip.limits.max_frames:
            clip.refuse(f"has more than {clip.limits.max_frames} frames")
    base = stream.time_base
    if len(packets) < 2 or base is None or earliest is None:
        clip.refuse(f"has {len(packets)} frames: not a video")
    start = min(packet.pts for packet in packets)
    step = last[1] or (last[0] - start) / (len(packets) - 1)
    sounds = container.streams.audio
    audio = (sounds[0].codec_context.name if sounds[0].codec_context else "unknown") if sounds else ""
    timeline = Timeline(packets, start, float((last[0] - start + step) * base), whole, audio, kept)
    read_until = max(float(end * (container.streams[index].time_base or 0)) for index, end in ends.items())
    _check_length(clip, container, stream, timeline, float((start - earliest) * base), read_until)
    return timeline


def _check_length(
    clip: OpenClip, container: InputContainer, stream: VideoStream, timeline: Timeline, lead: float, read_until: float
) -> None:
    """Refuse a clip that is too long, shorter than its header declares, or whose timestamps stand still.

    `lead`: seconds before the first key frame; `read_until`: where the last packet of any stream ends.
    """
    declared, found = None, lead + timeline.seconds
    if stream.duration is not None and stream.time_base is not None:
        declared = float(stream.duration * stream.time_base)
    elif container.duration is not None:  # Matroska: only the length of the whole, sound included
        declared, found = container.duration / av.time_base, read_until
    if declared is not None and declared - found > SLACK:
        clip.refuse(f"is cut short, or its header lies: it breaks off at {found:.2f} s of {declared:.2f} s declared")
    if timeline.seconds > clip.limits.max_seconds:
        clip.refuse(f"lasts {timeline.seconds:.0f} s, more than {clip.limits.max_seconds:g} s; cut it")
    if timeline.seconds <= 0 or timeline.fps > MAX_FPS:
        clip.refuse("its timestamps do not advance; re-encode it")
