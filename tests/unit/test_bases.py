"""What cannot be trained is refused when the run is submitted."""

import json
from typing import Any, cast

import pytest

from services.cli import bases
from shared.errors import UsageError
from shared.pipeline import make_plan, parse_pipeline
from shared.store import Store

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
