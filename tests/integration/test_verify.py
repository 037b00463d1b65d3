"""`roadqa verify`, for real: the trainer's environment, vLLM in bulk, vLLM's server."""

import json
from pathlib import Path

import pytest

from services.cli import serve, verify
from shared.errors import UsageError
from shared.parity import Contract
from shared.store import Store
from tests.integration.commands import Roadqa

MODEL = "sandbox-tiny"
SAME = ("equal_token_ids", "equal_grids", "equal_timestamps", "equal_pixels")


@pytest.fixture
def dataset(store: Store, roadqa: Roadqa) -> str:
    """Drawn scenes: two clips with four questions each."""
    drawn = roadqa("import", "sandbox", "--split", "held-out", "--recordings", 1, "--clips", 2, "--json")
    return str(json.loads(drawn.stdout)["dataset"])


def test_engine_and_server_see_and_answer_as_the_trainer_does(roadqa: Roadqa, dataset: str) -> None:
    done = roadqa("verify", MODEL, dataset, "--limit", 5, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["equal"]
    assert found["trained"] == found["asked"]
    for way in ("bulk", "http"):
        assert [found[way][name] for name in SAME] == [5] * 4
        assert 0 <= found[way]["max_logprob_difference"] <= found[way]["bound"]


def test_a_changed_cap_is_caught_and_shown(roadqa: Roadqa, dataset: str) -> None:
    done = roadqa("verify", MODEL, dataset, "--limit", 2, "--tokens-per-patch", 2, "--no-http", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert not found["equal"]
    assert [found[name]["video"]["tokens_per_patch"] for name in ("trained", "asked")] == [6, 2]
    assert [found["bulk"][name] for name in SAME] == [0, 0, 2, 0], "the same instants, at another size"
    first = found["bulk"]["differences"][0]
    assert first["of"] == "token ids"
    assert "⟦<|video_pad|>⟧" in first["trainer"]
    assert "⟦<|vision_end|>⟧" in first["engine"], "its patches are shorter"


def test_without_the_workers_environments_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ROOT", tmp_path)
    with pytest.raises(UsageError, match="make setup"):
        verify.Environments(tmp_path, tmp_path, "a" * 64, "model", Contract())
