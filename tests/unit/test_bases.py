"""What cannot be trained is refused when the run is submitted."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from services.cli import bases, leaks
from shared.errors import UsageError
from shared.pipeline import make_plan, parse_pipeline
from shared.schema import write_rows
from shared.store import Store
from tests.unit.test_leaks import clip, row

TEXT = "{name: p, data: {t: t}, models: {other: o}, steps: {tuned: {stage: train, model: other, data: t}}}"


class Files:
    """A store that holds one config.json."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def read_file(self, artifact: str, path: str) -> bytes:
        assert (artifact, path) == ("d" * 64, "config.json")
        return json.dumps(self._config).encode()


def check(config: dict[str, Any]) -> None:
    plan = make_plan(parse_pipeline(TEXT, "p"), {"t": ("a" * 64,)}, {"other": "d" * 64})
    bases.check(cast("Store", Files(config)), plan)


def test_a_model_that_cannot_be_trained_is_refused_by_name() -> None:
    with pytest.raises(
        UsageError, match=r"steps.tuned: its model 'other': is a llava_onevision, .* qwen3_vl \(Qwen3-VL\)"
    ):
        check({"model_type": "llava_onevision"})
    check({"model_type": "qwen3_vl"})


def test_validation_rows_on_trained_recordings_are_refused_when_a_run_is_submitted(tmp_path: Path) -> None:
    text = TEXT.replace("data: t}}", "data: t, validation: v}}").replace("{t: t}", "{t: t, v: v}")
    parts = {"t": ("a" * 64,), "v": ("b" * 64,)}
    plan = make_plan(parse_pipeline(text, "p"), parts, {"other": "d" * 64})
    for artifact, number in (("a" * 64, 1), ("b" * 64, 2)):
        one = clip(number, "r7")
        write_rows(tmp_path / artifact, [row(one)], {one.digest: one})
    with pytest.raises(UsageError, match=r"steps.tuned: validation: 1 of its rows .*'r7'.*roadqa datasets split"):
        leaks.check(cast("Store", Folders(tmp_path)), plan)
    other = clip(3, "r8")
    write_rows(tmp_path / ("b" * 64), [row(other)], {other.digest: other})
    leaks.check(cast("Store", Folders(tmp_path)), plan)


class Folders:
    """A store whose artifacts are folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read_file(self, artifact: str, path: str) -> bytes:
        return (self._root / artifact / path).read_bytes()
