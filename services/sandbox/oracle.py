"""Who answers in the sandbox's teacher: it knows what the drawn clips show, and errs at set rates.

It speaks no protocol: a question on a clip comes in, words go out.
"""

import hashlib
import io
import json
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av

from services.sandbox.clips import scene_of
from services.sandbox.faults import Draws, Fault, Faults, Refusal
from services.sandbox.mistakes import Case, Mistakes, Rates
from services.sandbox.paraphrases import compare, rewrite
from services.sandbox.questions import truth
from shared.errors import RoadQAError

MODELS = "sandbox-"  #: what the names of the models here begin with: another's must not seem to answer
SCENES = 4096  #: clips whose scene is remembered
TOKENS_PER_FRAME = {"low": 66, "high": 258}  #: Gemini's figures; the others are as `high`
_OTHER_MODELS = f": the sandbox has {MODELS}teacher only; for Gemini's set ROADQA_GEMINI_API_KEY, then `make down up`"
_BLOCK = re.compile(r"<question>\n(.*?)\n</question>\n<choices>\n(.*?)\n</choices>", re.DOTALL)
_VOTE = re.compile(r"^Vote \d+: choice (\d+) ", re.MULTILINE)
_NUMBER = re.compile(r"right choice is number (\d+)")
_ORDER = re.compile(r"SAY:\s*(.*\S)")
_SAID = {
    "en": "The clip shows this clearly, from its beginning to its end: {}.",
    "vi": "Đoạn phim cho thấy rõ điều này, từ đầu cho đến cuối: {}.",
}


@dataclass(frozen=True)
class Options:
    """How the teacher is to be."""

    rates: Rates = field(default_factory=Rates)
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    latency_s: float = 0.0
    hang_s: float = 600.0
    api_key: str | None = None  #: the only key accepted; None accepts any
    polls: int = 1  #: looks at an uploaded file before it is ACTIVE
    stuck: float = 0.0  #: share of uploaded files that stay in PROCESSING
    answer_tokens: int = 0  #: every answer needs as many output tokens; fewer cut it off
    gullible: bool = False  #: obeys orders in the question and in the clip: `SAY: …`
    batch_looks: int = 1  #: looks at a batch job before it has ended
    batch_left_out: float = 0.0  #: share of requests that the answers of their first job lack
    batch_ends: tuple[str, ...] = ()  #: how the first jobs end, such as EXPIRED
    batch_unheard: int = 0  #: first jobs that are taken, though the caller is told of an error


class Seen(NamedTuple):
    """What the teacher knows of a clip. `text`: what is written in it, where the teacher is gullible."""

    digest: str
    scene: Any
    seconds: float
    text: str


class Asked(NamedTuple):
    """One request, whatever protocol it came by."""

    clip: Seen | None
    prompt: str
    schema: dict[str, Any]
    seed: int
    room: int | None  #: output tokens that the answer may have
    fps: float = 1.0
    resolution: str = "default"


class Said(NamedTuple):
    """What is said to it. `end`: stop, cut, blocked (the answer), refused (the prompt) or nothing."""

    text: str
    end: str
    tokens_in: int
    tokens_out: int


class Oracle:
    """Answers, and remembers the clips it was shown."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._mistakes = Mistakes(options.rates, options.seed)
        self._draws = Draws(options.faults, options.seed)
        self._scenes: OrderedDict[str, Seen] = OrderedDict()
        self.served: Counter[str] = Counter()

    def fault(self, request: str) -> Fault | None:
        """What this try of the request meets. Raises `Refusal` where that is an error."""
        fault = self._draws.draw(request)
        self._draws.refuse(fault)
        if fault is not None:
            self.served[fault] += 1
        return fault

    def say(self, asked: Asked, fault: Fault | None) -> Said:
        """Answer. Raises `Refusal` where the request cannot be answered by anyone."""
        tokens = self.tokens(asked)
        if fault in ("blocked", "safety", "empty"):
            return Said("", {"blocked": "refused", "safety": "blocked", "empty": "nothing"}[fault], tokens, 0)
        text = self._obeyed(asked) or (self._answer(asked, asked.clip, fault) if asked.clip else self._rewritten(asked))
        out = max(len(text) // 4, self._options.answer_tokens)
        if fault == "cutoff" or (asked.room is not None and asked.room < out):
            return Said(text[: len(text) // 2], "cut", tokens, min(out, asked.room or out))
        if fault == "malformed":
            text = text[: len(text) // 2]
        return Said(text, "stop", tokens, out)

    def _obeyed(self, asked: Asked) -> str | None:
        if not self._options.gullible:
            return None
        order = _ORDER.search(f"{asked.prompt}\n{asked.clip.text if asked.clip else ''}")
        return order[1] if order else None

    def _answer(self, asked: Asked, clip: Seen, fault: Fault | None) -> str:
        case, request = _case(clip, asked.prompt), f"{asked.seed}/{asked.prompt}"
        wanted = asked.schema.get("properties", {})
        if "verdict" in wanted:
            votes = [int(number) - 1 for number in _VOTE.findall(asked.prompt)]
            verdict = self._mistakes.verify(case, votes, request)
            doubts = [] if verdict.consistent else [_words(case, verdict.answer, fault)]
            word = "consistent" if verdict.consistent else "inconsistent"
            said: dict[str, Any] = {"inconsistencies": doubts, "answer": verdict.answer + 1, "verdict": word}
        elif "answer" in wanted:
            place = self._mistakes.vote(case, request)
            said = {"reasoning": _words(case, place, fault), "answer": place + 1}
        else:
            raise Refusal(400, "This teacher answers schemas with `answer`, or `answer` and `verdict`, only.")
        if fault == "outside":
            said["answer"] = len(case.choices) + 1
        if fault == "extra":
            said |= {"confidence": 0.9, "tool_call": {"name": "shell", "arguments": "rm -rf /"}}
        return json.dumps(said, ensure_ascii=False)

    def _rewritten(self, asked: Asked) -> str:
        """Words about words: a question put otherwise, or two compared."""
        wanted, draw = (
            set(asked.schema.get("properties", {})),
            self._mistakes.draw("words", asked.prompt, str(asked.seed)),
        )
        blocks = [(text, _choices(choices)) for text, choices in _BLOCK.findall(asked.prompt)]
        number = _NUMBER.search(asked.prompt)
        rates = self._options.rates
        if "same" in wanted and number and len(blocks) == 2:
            said = compare(blocks[0], blocks[1], int(number[1]) - 1, rates.verify_error, draw)
        elif wanted <= {"question", "situation", "choices"} and len(blocks) == 1:
            said = rewrite(*blocks[0], wanted, rates.slips, draw)
        else:
            raise Refusal(400, "This teacher answers questions on a video; the request holds none.")
        return json.dumps({name: said[name] for name in wanted}, ensure_ascii=False)

    def tokens(self, asked: Asked) -> int:
        """Of the request: frames and words."""
        if not 0 < asked.fps <= 24:
            raise Refusal(400, f"video_metadata.fps must be in (0, 24], it is {asked.fps}.")
        frames = 0 if asked.clip is None else max(1, round(asked.clip.seconds * asked.fps))
        return frames * TOKENS_PER_FRAME.get(asked.resolution, TOKENS_PER_FRAME["high"]) + len(asked.prompt) // 4

    # Clips

    def known(self, key: str) -> Seen | None:
        """The clip that was remembered under the key."""
        if key in self._scenes:
            self._scenes.move_to_end(key)
        return self._scenes.get(key)

    def remember(self, key: str, data: bytes) -> Seen:
        """Look at a clip. Raises `Refusal` where it is none of the sandbox's."""
        try:
            scene = scene_of(data)
        except RoadQAError as error:
            raise Refusal(400, f"The video could not be processed: {error}") from error
        text = _written(data) if self._options.gullible else ""
        seen = Seen(hashlib.sha256(data).hexdigest(), scene, float(getattr(scene, "seconds", 5.0)), text)
        self._scenes[key] = seen
        while len(self._scenes) > SCENES:
            self._scenes.popitem(last=False)
        return seen


def check_model(model: str) -> None:
    """Raises `Refusal` where the sandbox has no such model."""
    if not model.startswith(MODELS):
        raise Refusal(404, f"models/{model} is not found for API version v1beta{_OTHER_MODELS}")


def _written(data: bytes) -> str:
    """What stands in for writing in the picture: the clip's title."""
    with av.open(io.BytesIO(data)) as container:
        return container.metadata.get("title", "")


def _words(case: Case, place: int, fault: Fault | None) -> str:
    language = "vi" if any(letter > "\x7f" for letter in case.question) else "en"
    if fault == "language":
        language = "en" if language == "vi" else "vi"
    return _SAID[language].format(case.choices[place])


def _choices(lines: str) -> tuple[str, ...]:
    return tuple(line.partition(". ")[2] for line in lines.split("\n"))


def _case(clip: Seen, prompt: str) -> Case:
    match = _BLOCK.search(prompt)
    if match is None:
        raise Refusal(400, "The prompt holds no <question> and <choices>.")
    choices = _choices(match[2])
    place = truth(clip.scene, match[1], choices)
    if place is None:
        raise Refusal(400, f"The scene does not tell: {match[1]} ({', '.join(choices)})")
    return Case(clip.digest, match[1], choices, place)
