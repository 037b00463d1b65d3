"""Clips decoded ahead of the engine, each once, and the questions on them in the order that serves its caches."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import groupby
from typing import NamedTuple

from shared.budget import VideoBudget, frame_size, sample_times
from shared.choices import reordered, rotations
from shared.context import Context
from shared.contracts import Asking
from shared.decoders import decoders
from shared.errors import MediaError
from shared.schema import Clip, Question, Rows
from shared.video import SampledClip
from workers.inference.engines import Asked
from workers.inference.unseen import Unseen

AHEAD_BYTES = 1 << 30  #: of frames that wait for the engine
POLL_SECONDS = 0.002  #: for a clip that is not decoded yet, between two steps of the engine


class Put(NamedTuple):
    """One time that a question is asked."""

    question: Question  #: in its own order
    order: tuple[int, ...]  #: the choice at each place
    seed: int


class _Group(NamedTuple):
    """A clip under way, and all that is asked of it."""

    puts: Sequence[Put]
    clip: Future[SampledClip]
    cost: int


def puts(question: Question, asking: Asking) -> list[Put]:
    """Each time that a question is asked: `samples` times in each of its orders."""
    orders = rotations([choice.text for choice in question.choices], asking.rotate)
    return [
        Put(question, order, _seed(f"{asking.seed}/{question.id}/{turn}/{sample}"))
        for turn, order in enumerate(orders)
        for sample in range(asking.samples)
    ]


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def by_clip(questions: Sequence[Question]) -> list[Question]:
    """Questions on one clip side by side, clips and their questions as they come."""
    order = {digest: place for place, digest in enumerate(dict.fromkeys(q.clip for q in questions))}
    return sorted(questions, key=lambda q: order[q.clip])


def frame_bytes(clip: Clip, video: VideoBudget) -> int:
    """Bytes of the clip's sampled frames."""
    frames = len(sample_times(clip.seconds, video))
    width, height = frame_size(clip.width, clip.height, frames, video)
    return frames * width * height * 3


class Ahead:
    """What to ask, in an engine's order. Decoding begins at once, and goes on while the engine is at work."""

    def __init__(
        self,
        questions: Sequence[Question],
        rows: Rows,
        video: VideoBudget,
        asking: Asking,
        ctx: Context,
        unseen: Unseen,
    ) -> None:
        self.puts = [put for question in by_clip(questions) for put in puts(question, asking)]  #: by `Asked.place`
        self._rows, self._video, self._ctx, self._unseen = rows, video, ctx, unseen
        self._left = groupby(self.puts, key=lambda put: put.question.clip)
        self._groups: deque[_Group] = deque()
        self._bytes = 0
        self._budget = hashlib.sha256(video.model_dump_json().encode()).hexdigest()[:16]
        self._fill()

    def _fill(self) -> None:
        """Start decoding the next clips, one at least, within `AHEAD_BYTES`."""
        while self._bytes < AHEAD_BYTES or not self._groups:
            digest, group = next(self._left, (None, ()))
            if digest is None:
                return
            cost = frame_bytes(self._rows.clips[digest], self._video)
            clip = decoders().submit(self._rows.clip_path(digest), self._video)
            self._groups.append(_Group(list(group), clip, cost))
            self._bytes += cost

    def __iter__(self) -> Iterator[Asked | None]:
        """All that is asked, None while a clip is not decoded yet; no more once the work is to be put down.

        Nothing is asked of clips that do not decode: `unseen` knows them.

        Raises:
            MediaError: they are too many.
        """
        place = 0
        while self._groups:
            group = self._groups.popleft()
            self._bytes -= group.cost
            self._fill()
            while not group.clip.done():
                if self._ctx.stopping:
                    return
                yield None
                wait([group.clip], POLL_SECONDS)
            frames = self._frames(group)
            for put in group.puts:
                if self._ctx.stopping:
                    return
                if frames is not None:
                    yield self._asked(put, frames, place)
                place += 1

    def close(self) -> None:
        """Leave what is not decoded yet."""
        for group in self._groups:
            group.clip.cancel()
        self._groups.clear()

    def _frames(self, group: _Group) -> SampledClip | None:
        try:
            return group.clip.result()
        except MediaError as error:
            digest = group.puts[0].question.clip
            self._unseen.add(digest, str(error).removeprefix(f"{self._rows.clip_path(digest)}: "))
            return None

    def _asked(self, put: Put, frames: SampledClip, place: int) -> Asked:
        question = put.question
        shown = reordered(question, put.order)
        return Asked(shown, frames, f"{question.clip}-{self._budget}", place, put.seed)
