"""`roadqa verify` finds what is wrong; that it finds nothing where nothing is: `test_serve.py`."""

import json
from pathlib import Path

import pytest

from services.cli import serve, verify
from services.local.stack import ROOT
from shared.errors import UsageError
from shared.parity import Asking
from shared.store import Store
from tests.integration.commands import Roadqa, one_line


def test_a_changed_cap_is_caught_in_bulk_and_over_http(store: Store, roadqa: Roadqa) -> None:
    drawn = roadqa("import", "sandbox", "--split", "held-out", "--recordings", 1, "--clips", 2, "--json")
    dataset = json.loads(drawn.stdout)["dataset"]
    done = roadqa("verify", "sandbox-tiny", dataset, "--limit", 2, "--tokens-per-patch", 2, "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert not found["equal"]
    assert found["trained"]["video"]["tokens_per_patch"] == 6
    for way in ("bulk", "http"):
        one = found[way]
        assert (one["questions"], one["equal_token_ids"], one["equal_grids"], one["equal_pixels"]) == (2, 0, 0, 0)
        assert one["equal_timestamps"] == 2, "the same instants, at another size"
        first = one["differences"][0]
        assert first["of"] == "token ids"
        assert "⟦<|video_pad|>⟧" in first["trainer"]
        assert "⟦<|vision_end|>⟧" in first["engine"], "its patches are shorter"


def test_a_server_is_asked_as_it_was_started(store: Store, roadqa: Roadqa) -> None:
    drawn = roadqa("import", "sandbox", "--split", "held-out", "--recordings", 1, "--clips", 1, "--json")
    dataset = json.loads(drawn.stdout)["dataset"]
    url = ("--url", "http://127.0.0.1:1")
    assert "samples as it was started" in one_line(roadqa("verify", "sandbox-tiny", dataset, *url, "--fps", 1), 2)


def test_without_the_workers_environments_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ROOT", tmp_path)
    with pytest.raises(UsageError, match="make setup"):
        verify.Environments(tmp_path, tmp_path, "a" * 64, "model", Asking())
    assert (ROOT / ".venvs" / "trainer").is_dir()
