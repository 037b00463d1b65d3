"""How far can consensus labels be trusted, and does a killed labeler pay twice?

Drawn scenes, the label verb as it is, the real google-genai client over HTTP on loopback. The sandbox's teacher errs
on a quarter of its votes, a fifth of these errors common to all prompts, and on a tenth of its verifications; three
of them, whose verification sees through none, half and all of the common errors. Their votes are the same, so the
second and the third find them in the journal and are asked for verifications only. Then the verb is killed a few
times, each time after so many answers served, and goes on with the same scratch folder.

Prints a table and writes `results/labels.json`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts.telling import Telling
from services.cli import words
from services.cli.trust import Case, Trust, measure
from services.sandbox.mistakes import Rates
from services.sandbox.taught import ROOT, sandbox_teacher, write_scene_rows
from shared.context import FolderScratch
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.prices import prices
from shared.schema import Label, Rows, read_jsonl
from shared.teachers import Entry, connect
from workers.labeler.label import label

RESULTS = Path(__file__).parent / "results" / "labels.json"
RECIPE = LabelRecipe(teacher=TeacherRecipe(model="sandbox-teacher"))
RATES = Rates(vote_error=0.25, common_share=0.2, verify_error=0.1)
SEE_THROUGH = (0.0, 0.5, 1.0)
SETTING = 0.5  #: the one whose figures are named at the top
RECORDINGS, CLIPS, PER_CLIP = 80, 4, 4
IN_FLIGHT = 16
KILLS, KILL_RECORDINGS = 4, 10
CALLS = 6  #: of a question's round: five votes and a verification
LATENCY_S = 0.02  #: of the teacher that is asked by a verb about to die: so that there is something in flight


# --- the verb in a process of its own --------------------------------------------------------------


def work(folder: Path, url: str, what: str) -> dict[str, Any]:
    """Label `folder`/data into `folder`/out, with the scratch that is there; returns the verb's facts."""
    (folder / "out").mkdir(exist_ok=True)
    factory = partial(connect, api_key="sandbox", base_url=url, in_flight=IN_FLIGHT)
    ctx = Telling(folder / "scratch", what)
    return label({"data": [folder / "data"]}, RECIPE, folder / "out", ctx, teacher_factory=factory, in_flight=IN_FLIGHT)


def child(folder: Path, url: str, what: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.labels", "--work", str(folder), url, what]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


# --- how far to trust ------------------------------------------------------------------------------


def trusted(folder: Path, truth: dict[str, int], see_through: float) -> tuple[Trust, dict[str, Any]]:
    """What a teacher's labels are worth; the verb's facts."""
    options = {"vote-error": RATES.vote_error, "common-share": RATES.common_share,
               "verify-error": RATES.verify_error, "see-through": see_through}  # fmt: skip
    with sandbox_teacher(*(f"--{name}={value}" for name, value in options.items())) as url:
        facts = work(folder, url, f"sees through {see_through:.0%}")
    rows = Rows([folder / "data"])
    questions = {question.id: question for question in rows.questions}
    cases = [
        Case(verdict, questions[verdict.question].model_copy(update={"answer": truth[verdict.question]}),
             rows.clips[questions[verdict.question].clip].recording)
        for verdict in read_jsonl(folder / "out" / "labels.jsonl", Label)
    ]  # fmt: skip
    return measure(cases, RECIPE.min_agreement, RECIPE.extra_rounds, usd=facts["usd"]), facts


def keep_votes(before: Path, folder: Path) -> None:
    """Put what one teacher answered to the voting prompts into the journal of the next."""
    known, fresh = FolderScratch(before / "scratch"), FolderScratch(folder / "scratch")
    for key in known.keys("journal/"):
        data = known.get(key) or b""
        if not Entry.model_validate_json(data).prompt_id.startswith("verify"):
            fresh.put(key, data)


# --- killed ----------------------------------------------------------------------------------------


def killed(folder: Path, seed: int = 0) -> dict[str, int]:
    """Kill the verb after so many answers served, KILLS times; then let it end. What the teacher served in all."""
    truth = write_scene_rows(folder / "data", KILL_RECORDINGS, CLIPS, PER_CLIP, seed=11)
    dice = random.Random(seed)
    expected = len(truth) * CALLS  # at least
    moments = sorted(dice.randrange(expected // 20, expected * 9 // 10) for _ in range(KILLS))
    # what it says of connections that die with their process is nobody's concern
    with sandbox_teacher(f"--latency={LATENCY_S}", log=subprocess.DEVNULL) as url:
        for number, moment in enumerate(moments, 1):
            with child(folder, url, f"killed at {moment}") as process:
                _await(lambda at=moment: served(url) >= at or process.poll() is not None, f"answer {moment}")
                if process.poll() is not None:
                    raise SystemExit(f"the verb ended ({process.returncode}) before kill {number}")
                process.send_signal(signal.SIGKILL)
        facts = work(folder, url, "the rest")
        asked = served(url)
    unique = sum(1 for _ in FolderScratch(folder / "scratch").keys("journal/"))
    return {
        "questions": len(truth), "labelled": facts["questions"], "kills": KILLS, "in_flight": IN_FLIGHT,
        "calls": asked, "unique_requests": unique, "asked_twice": asked - unique,
        "excess_calls": asked - (unique + IN_FLIGHT * KILLS),
    }  # fmt: skip


def served(url: str) -> int:
    """Answers that a sandbox teacher has given."""
    with urllib.request.urlopen(f"{url}/health") as reply:
        return int(json.load(reply)["served"].get("generateContent", 0))


def _await(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.005)


# --- the table -------------------------------------------------------------------------------------


def table(found: dict[float, Trust]) -> list[str]:
    """Ensemble against single vote against votes alone, for each verifier."""
    lines = ["verifier sees through  labels                right  95% interval  of questions  $ each"]
    for see, trust in found.items():
        rows = [("single vote", trust.single_vote, None, None),
                ("votes alone", trust.majority.precision, trust.majority.coverage, None),
                ("accepted", trust.accepted.precision, trust.accepted.coverage, trust.usd_per_accepted)]  # fmt: skip
        rows += [(f"  min_agreement {point.min_agreement:g}", point.precision, point.coverage, None)
                 for point in trust.curve[1:]]  # fmt: skip
        for place, (name, right, covered, cost) in enumerate(rows):
            lines.append(
                f"{f'{see:.0%} of common errors' if place == 0 else '':21}  {name:20}  {words.percent(right.value):>5}"
                f"  {words.interval(right.ci95):>12}  {words.percent(covered.value if covered else None):>12}"
                f"  {words.usd(cost):>6}"
            )
    return lines


def results(found: dict[float, Trust], facts: dict[float, dict[str, Any]], kills: dict[str, int]) -> dict[str, Any]:
    own = found[SETTING]
    return {
        "machine": {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total},
        "teacher": RATES._asdict() | {"see_through": SETTING},
        "n": own.n,
        "recordings": own.recordings,
        "single_vote_accuracy": own.single_vote.value,
        "majority_precision": own.majority.precision.value,
        "majority_coverage": own.majority.coverage.value,
        "accepted_precision": own.accepted.precision.value,
        "accepted_ci95": own.accepted.precision.ci95,
        "coverage": own.accepted.coverage.value,
        "prompts": {prompt.prompt: prompt.accuracy.value for prompt in own.prompts},
        "kappa": own.kappa.value if own.kappa else None,
        "usd_per_accepted": own.usd_per_accepted,
        "prices_of": str(prices().date),
        "excess_calls_after_kill": kills["excess_calls"],
        "kill": kills,
        "by_see_through": {f"{see:g}": trust.model_dump(mode="json") for see, trust in found.items()},
        "facts": {f"{see:g}": told for see, told in facts.items()},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs=3, metavar=("FOLDER", "URL", "WHAT"), help="be the verb of another process")
    if (mine := parser.parse_args().work) is not None:
        work(Path(mine[0]), *mine[1:])
        return
    began = time.monotonic()
    found: dict[float, Trust] = {}
    facts: dict[float, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, see in enumerate(SEE_THROUGH):
            own = Path(folder) / f"{see:g}"
            truth = write_scene_rows(own / "data", RECORDINGS, CLIPS, PER_CLIP)
            if number:
                keep_votes(Path(folder) / f"{SEE_THROUGH[number - 1]:g}", own)
            found[see], facts[see] = trusted(own, truth, see)
        kills = killed(Path(folder) / "killed")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results(found, facts, kills), indent=1) + "\n", encoding="utf-8")
    own = found[SETTING]
    print(f"{own.n} questions of {own.recordings} recordings, {time.monotonic() - began:.0f} s")
    print("\n".join(table(found)))
    print("prompts: " + ", ".join(f"{one.prompt} {words.percent(one.accuracy.value)}" for one in own.prompts))
    if own.kappa:
        print(f"Fleiss' kappa {own.kappa.value:.2f} ({own.kappa.ci95[0]:.2f}–{own.kappa.ci95[1]:.2f})")
    twice = f"{kills['asked_twice']} of {kills['unique_requests']} requests asked twice"
    print(f"killed {KILLS} times with {IN_FLIGHT} in flight: {twice}, excess {kills['excess_calls']} (0 or less holds)")


if __name__ == "__main__":
    main()
