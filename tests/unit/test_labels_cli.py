"""`roadqa labels`: options that do not go together are told before anything is looked up, and what is drawn is true."""

import re
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from services.cli import labels, trust, trustview
from services.cli.main import main
from shared.metrics import Settings
from shared.schema import Clip
from tests.unit.test_trust import asked, erring, question


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluate",), "give a DATASET and --teacher, or --run"),
        (("evaluate", "train", "--run", "r"), "give a DATASET and --teacher, or --run"),
        (("evaluate", "train"), "say which --teacher"),
        (("evaluate", "train", "--teacher", "t", "--answers", "x"), "go with --run"),
        (("evaluate", "--run", "r", "--teacher", "t"), "nothing is asked anew"),
        (("evaluate", "train", "--teacher", "t", "--picture", "trust.png"), "must end in .svg or .html"),
        (("export", "r", "-o", "t.json"), "give --clips DIR, or --url"),
    ],
)
def test_options_that_do_not_go_together_are_told(words: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(main, ["labels", *words])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.startswith("roadqa: ")
    assert done.stderr.count("\n") == 1


def clip(number: int, recording: str, name: str = "a.MOV") -> Clip:
    return Clip(digest=f"{number:064x}", name=name, recording=recording, size_bytes=1, seconds=1, fps=1, width=1,
                height=1, codec="h264")  # fmt: skip


def test_a_sample_takes_one_question_of_each_recording_before_a_second() -> None:
    questions = [question(number) for number in range(40)]
    clips = {row.clip: clip(number, f"r{number % 8}") for number, row in enumerate(questions)}
    chosen = labels.sample(questions, clips, 8)
    assert sorted(clips[row.clip].recording for row in chosen) == [f"r{number}" for number in range(8)]
    assert chosen == [row for row in questions if row in chosen], "in their own order"
    assert labels.sample(list(reversed(questions)), clips, 8) == list(reversed(chosen))
    assert len(labels.sample(questions, clips, 11)) == 11


def test_a_clip_keeps_the_ending_by_which_a_browser_knows_it() -> None:
    assert labels.file_name(clip(1, "r")).endswith("1.mov")
    assert labels.file_name(clip(1, "r", "no ending")).endswith("1.mp4")


@pytest.mark.parametrize("target", [None, 0.5, 0.999])
def test_the_picture_marks_the_threshold_that_is_chosen_and_each_point_where_it_is(target: float | None) -> None:
    found = trust.measure([asked(erring(0.2), number) for number in range(80)], 0.6, 2, Settings(resamples=500))
    chosen = trust.choose(found, target) if target else None
    picture = trustview.draw(found, target, chosen)
    assert [mark.chosen for mark in picture.verified].count(True) == (chosen is not None)
    for marks in (picture.verified, picture.alone):
        assert marks == sorted(marks, key=lambda mark: mark.x)
        assert all(mark.high <= mark.y <= mark.low for mark in marks), "the interval holds the share"
    drawn = trustview.svg(found, target, chosen)
    root = ElementTree.fromstring(drawn)
    circles = [tag for tag in root.iter() if tag.tag.endswith("circle") and tag.get("class") == "ring"]
    assert len(circles) == (chosen is not None)
    page = trustview.html(found, target, chosen)
    assert not re.search(r"<script|src=|href=|@import|url\(", page)
    assert trustview.NO_GROUND in page
    assert (f"min_agreement: {chosen.min_agreement:g}" in page) if chosen else ("No threshold" in page) == bool(target)
