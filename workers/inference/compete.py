"""A competition's run: a test file and its clips in, an answer in time for every question out; no store, no network.

`python -m workers.inference.compete MODEL_DIR [--data /data] [--result /result]`; settings are variables (`ROADQA_…`).
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from shared import child, metrics, sums
from shared.budget import VideoBudget
from shared.contracts import PredictRecipe
from shared.errors import InputError, RoadQAError
from shared.formats.common import one_line, write_json
from shared.formats.submission import read_submission
from shared.schema import Prediction
from shared.settings import settings
from workers.inference.contest import Entry, Results, check_letter, read
from workers.inference.deadline import Asker, Seen

REPORT = "compete.json"
#: Questions in a row after each of which the engine had to be loaded anew: it will not live.
HOPELESS = 3
DAY = 86_400.0
_SAY_SECONDS = 5.0


class Answered(NamedTuple):
    """One question's way to its answer."""

    entry: Entry
    letter: str
    seen: Seen
    seconds: float
    why: str | None
    full: str | None  #: the letter it would have got without a deadline, None where that is not known


def compete(entries: Sequence[Entry], asker: Asker, results: Results, patience: float) -> Iterator[Answered]:
    """Answer every entry, questions on one clip after each other; each answer is in `results` before it is yielded.

    Args:
        patience: seconds to wait for a late answer that only tells what the deadline costs; 0: it is not wanted.

    Raises:
        RoadQAError: the engine cannot be kept alive; the rest keeps its majority letters.
    """
    failed = 0
    for entry in _by_clip(entries):
        if entry.question is None or entry.clip is None:
            results.give(entry.id, entry.majority, 0.0)
            yield Answered(entry, entry.majority, "nothing", 0.0, entry.why, entry.majority)
            continue
        asker.make_ready()
        found = asker.ask(entry.question, entry.clip)
        letter = entry.majority if found.prediction is None else letter_of(entry, found.prediction)
        results.give(entry.id, letter, found.seconds)
        late = asker.settle(patience)
        full: str | None = letter
        if found.late:
            full = letter_of(entry, late) if late else None
        yield Answered(entry, letter, found.seen, found.seconds, found.why, full)
        failed = failed + 1 if found.broke else 0
        if failed == HOPELESS:
            raise RoadQAError(f"the engine failed at {failed} questions in a row, the last time: {found.why}")


def _by_clip(entries: Sequence[Entry]) -> list[Entry]:
    first = {entry.clip: place for place, entry in reversed(list(enumerate(entries)))}
    return sorted(entries, key=lambda entry: first[entry.clip])


def letter_of(entry: Entry, found: Prediction) -> str:
    """As the source file names the choice: that is what the scorer compares."""
    assert entry.question is not None
    return entry.question.choices[found.choice].label.upper()


# --- what is said of it ------------------------------------------------------------------------------


def report(answered: Sequence[Answered], deadline: float, truth: dict[str, str]) -> dict[str, Any]:
    """How it went; accuracies, where `truth` (letters by id) says of a question what is right."""
    spent = [one.seconds for one in answered]
    seen = Counter(one.seen for one in answered)
    return {
        "n": len(answered),
        "deadline_seconds": deadline,
        "in_time": sum(seconds <= deadline for seconds in spent),
        "seen": {name: seen[name] for name in ("all", "a glance", "nothing")},
        "seconds": {"mean": fmean(spent), "max": max(spent)} if spent else None,
        "accuracy": accuracies(answered, deadline, truth),
        "marks": [{"id": one.entry.id, "seen": one.seen, "why": one.why} for one in answered if one.why],
    }


def accuracies(answered: Sequence[Answered], deadline: float, truth: dict[str, str]) -> dict[str, Any] | None:
    """`under_deadline`; `plain`, without one, on the questions whose full answer came in the end; and `majority`,
    of giving that letter always. None where no answer is known."""
    known = [one for one in answered if one.entry.id in truth]
    if not known:
        return None
    ended = [one for one in known if one.full is not None]
    return {
        "under_deadline": _accuracy(known, [one.letter if one.seconds <= deadline else None for one in known], truth),
        "plain": _accuracy(ended, [one.full for one in ended], truth),
        "majority": _accuracy(known, [one.entry.majority for one in known], truth),
    }


def _accuracy(
    answered: Sequence[Answered], letters: Sequence[str | None], truth: dict[str, str]
) -> dict[str, Any] | None:
    if not answered:
        return None
    right = [int(truth[one.entry.id] == said) for one, said in zip(answered, letters, strict=True)]
    share, interval = metrics.accuracy_interval(right, [one.entry.recording for one in answered])
    return {"is": share, "n": len(right), "ci95": [interval.low, interval.high]}


class Meter:
    """Progress in lines: how many, how fast, how long still."""

    def __init__(self, total: int) -> None:
        self._total, self._began, self._said = total, time.monotonic(), 0.0
        self._seen: Counter[Seen] = Counter()

    def show(self, one: Answered) -> None:
        self._seen[one.seen] += 1
        done, now = self._seen.total(), time.monotonic()
        if now - self._said < _SAY_SECONDS and done < self._total:
            return
        self._said = now
        rate = done / max(now - self._began, 1e-9)
        left = round((self._total - done) / rate)
        seen = f"{self._seen['a glance']} at a glance, {self._seen['nothing']} by the majority letter"
        say(f"{done} of {self._total} questions, {rate:.2g} a second, {left // 60}:{left % 60:02} left; {seen}")


def say(line: str) -> None:
    print(f"compete: {line}", file=sys.stderr, flush=True)


def told(found: dict[str, Any]) -> Iterator[str]:
    seconds = found["seconds"]
    yield (
        f"{found['in_time']} of {found['n']} answers within {found['deadline_seconds']:g} s"
        f" (mean {seconds['mean']:.2f}, at most {seconds['max']:.2f}); {found['seen']['a glance']} at a glance,"
        f" {found['seen']['nothing']} by the majority letter"
    )
    for name, share in (found["accuracy"] or {}).items():
        if share:
            low, high = share["ci95"]
            yield f"accuracy {name.replace('_', ' ')}: {share['is']:.3f} [{low:.3f}, {high:.3f}], n = {share['n']}"


# --- the command -------------------------------------------------------------------------------------


def recipe(model: Path, engine: Literal["vllm", "transformers"]) -> PredictRecipe:
    """The model is asked as it was trained, where its card tells how.

    Raises:
        InputError: it is no model folder, or the card cannot be read.
    """
    if not (model / "config.json").is_file():
        raise InputError(f"{model}: no model here (config.json and *.safetensors); give the folder of a checkpoint")
    card = model / "card.json"
    try:
        asked = json.loads(card.read_text(encoding="utf-8")).get("recipe", {}) if card.is_file() else {}
        return PredictRecipe(
            engine=engine,
            video=VideoBudget.model_validate(asked.get("video", {})),
            system_prompt=asked.get("system_prompt", "expert"),
        )
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{card}: is not understood ({one_line(str(error)[:200])}); mend it or take it away"
        ) from error


def truths(entries: Sequence[Entry], path: Path | None) -> dict[str, str]:
    """The right letters, as the test file and then `path` tell them.

    Raises:
        InputError: the file is no CSV of `id,answer`.
    """
    return {e.id: e.truth for e in entries if e.truth} | (read_submission(path) if path else {})


def run(asked: argparse.Namespace) -> None:
    """The whole run, as it was asked for.

    Raises:
        RoadQAError: nothing can be answered, or the engine does not live; what is written stands.
    """
    deadline, majority = asked.deadline_seconds, check_letter(asked.majority)
    entries, problems = read(asked.data / asked.questions, asked.videos or asked.data, majority)
    results = Results(asked.result, entries)
    for line in problems:
        say(line)
    ask = recipe(asked.model, asked.engine)
    if checked := sums.check(asked.model):
        say(f"{asked.model}: {checked} files are as {sums.FILE} says")
    truth = truths(entries, asked.truth)
    if all(entry.question is None for entry in entries):
        raise InputError(f"none of {len(entries)} questions can be asked; the first: {entries[0].why}")
    answered: list[Answered] = []
    with tempfile.TemporaryDirectory(prefix="roadqa-compete-") as scratch, _ended_properly():
        verb = child.resident("workers.inference.timed")
        with Asker(verb, asked.model.absolute(), ask, deadline, Path(scratch)) as asker:
            say(f"{len(entries)} questions, {deadline:g} s for each; loading {asked.model} …")
            asker.make_ready()
            meter = Meter(len(entries))
            try:
                for one in compete(entries, asker, results, asked.patience if truth else 0.0):
                    answered.append(one)
                    meter.show(one)
            finally:
                found = report(answered, deadline, truth)
                write_json(asked.result / REPORT, found)
    for line in told(found):
        say(line)


@contextmanager
def _ended_properly() -> Iterator[None]:
    """`docker stop` ends it as Ctrl-C does: the report is written, and the engine ends with this process."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.inference.compete",
        description="Answer a competition's test file, each question within a deadline. Writes submission.csv and "
        "time_submission.csv (id,answer,time in ms), and compete.json.",
        epilog="Example: python -m workers.inference.compete /model --data /data --result /result"
        " --deadline-seconds 30",
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, default=Path("/data"), help="folder of the test file (/data)")
    parser.add_argument("--questions", default="private_test.json", help="the test file in it (private_test.json)")
    parser.add_argument("--videos", type=Path, help="folder that video_path starts from (--data's)")
    parser.add_argument("--result", type=Path, default=Path("/result"), help="folder for what is handed in (/result)")
    parser.add_argument("--deadline-seconds", type=float, default=settings().compete_deadline_seconds,
                        help="for each question, end to end (ROADQA_COMPETE_DEADLINE_SECONDS, 30)")  # fmt: skip
    parser.add_argument("--majority", default=settings().compete_majority,
                        help="letter where nothing better is known (ROADQA_COMPETE_MAJORITY, A)")  # fmt: skip
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--truth", type=Path, metavar="CSV", help="id,answer of questions whose answer is known")
    parser.add_argument("--patience", type=float, default=600.0,
                        help="where answers are known: seconds to wait for late ones, for accuracy without a deadline"
                        " (600)")  # fmt: skip
    asked = parser.parse_args(words)
    if not 0 < asked.deadline_seconds <= DAY:
        parser.error("--deadline-seconds: more than 0, and a day at most")
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """`python -m workers.inference.compete MODEL_DIR …`"""
    try:
        run(arguments(sys.argv[1:] if words is None else words))
    except RoadQAError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("ended early; the answers so far are written")
        sys.exit(130)


if __name__ == "__main__":
    main()
