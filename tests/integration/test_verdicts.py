"""A verdict is found from the model it speaks of, and a refused model is not served unless it is forced."""

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from services.local.stack import ROOT
from shared import verdicts
from shared.contracts import STAGES, EvaluateRecipe
from shared.errors import UsageError
from shared.lease import Board
from shared.run import Result, Task
from shared.settings import Settings
from shared.stage import Worker, offer_of, request_of
from shared.store import Store
from tests.integration.commands import Roadqa
from tests.waiting import wait_for

PYTHON = ROOT / ".venvs" / "inference" / "bin" / "python"


class World:
    """A model in the store, and a worker that evaluates it."""

    def __init__(self, config: Settings, store: Store, board: Board, folder: Path) -> None:
        self.store, self.board, self.worker, self.folder = store, board, Worker(config, store, board), folder
        for name in ("config.json", "card.json", "model.safetensors"):
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / name).write_text("{}")
        self.model = store.put_artifact("model", folder / "model")
        store.set_name("models", "small", self.model)
        (folder / "rows").mkdir()
        (folder / "rows" / "questions.jsonl").write_text("")
        self.rows = store.put_artifact("predictions", folder / "rows")

    def evaluate(self, state: str | None, why: str, seed: int) -> dict[str, Any]:
        """Have the worker commit scores with a verdict; returns the facts."""
        recipe = EvaluateRecipe(seed=seed).model_dump(mode="json")
        version = STAGES["evaluate"].version
        inputs = {"predictions": (self.rows,), "data": (self.rows,), "model": (self.model,)}
        task = Task(stage="evaluate", version=version, recipe=recipe, recipe_hash=f"{seed:032x}", inputs=inputs)
        self.store.write(f"requests/{task.key}", request_of(task))

        def verb(given: dict[str, list[Path]], _: Any, out: Path, ctx: object) -> dict[str, Any]:
            (out / "scores.json").write_text("{}")
            if state:
                (out / "verdict.json").write_text(json.dumps({"state": state, "why": why, "n": 400}))
            return {"fetched": sorted(path.name for path in given["model"][0].iterdir())}

        self.worker.perform(verb, **offer_of(task, "run"))
        return Result.model_validate_json(self.store.read(f"results/{task.key}")).facts

    def next_second(self) -> None:
        """The store's clock tells whole seconds."""
        before = self.tick()
        wait_for(lambda: self.tick() > before, "the store's next second", 5, every=0.1)

    def tick(self) -> datetime:
        self.store.write("tick", b"")
        told = self.store.modified("tick")
        assert told is not None
        return told


@pytest.fixture
def world(config: Settings, store: Store, board: Board, tmp_path: Path) -> World:
    return World(config, store, board, tmp_path)


def test_the_newest_decision_counts_and_only_the_card_is_fetched_for_it(world: World) -> None:
    assert verdicts.newest(world.store, world.model) is None
    facts = world.evaluate("refused", "max_drop 0.02: difference -0.0500", 1)
    assert facts["fetched"] == ["card.json"], "no weights for a comparison of answers"
    why = verdicts.refusal(world.store, world.model)
    assert why is not None
    assert "max_drop 0.02: difference -0.0500 (n = 400" in why
    world.evaluate(None, "", 2)  # scores without a parent say nothing of it
    assert verdicts.refusal(world.store, world.model) == why
    world.next_second()
    world.evaluate("measured", "no gate was set", 4)
    world.evaluate("undecided", "n = 90: too few to claim anything", 5)
    assert verdicts.refusal(world.store, world.model) == why, "what decides nothing takes no refusal back"
    world.evaluate("promoted", "it keeps what the gate asks", 3)
    assert verdicts.refusal(world.store, world.model) is None
    found = verdicts.newest(world.store, world.model)
    assert found is not None
    assert found["state"] == "promoted"


def test_what_calibrated_a_model_is_found_by_its_question(world: World, roadqa: Roadqa) -> None:
    line = {"question": "q7", "clip": "ab" * 32, "recording": "r", "category": "sign", "origin": "human"}
    (world.folder / "model" / "calibration.jsonl").write_text(json.dumps(line) + "\n")
    model = world.store.put_artifact("model", world.folder / "model")
    told = json.loads(roadqa("trace", model, "--question", "q7", "--json").stdout)
    assert told["question"] == [{"artifact": model, "table": "calibration.jsonl", "row": line}]
    assert "calibrated the model (clip abab" in roadqa("trace", model, "--question", "q7").stdout


def test_a_refused_model_is_not_served_unless_forced_and_that_is_said(world: World) -> None:
    assert verdicts.check(world.store, world.model, "small", force=False) is None
    world.evaluate("refused", "min_recovery 0.98", 1)
    with pytest.raises(UsageError, match=r"small is not served: its gate refused it: min_recovery 0.98 .* --force"):
        verdicts.check(world.store, world.model, "small", force=False)
    said = verdicts.check(world.store, world.model, "small", force=True)
    assert said is not None
    assert "served by --force though its gate refused it" in said


def test_the_commands_refuse_it_too(world: World, roadqa: Roadqa, servers: dict[str, str]) -> None:
    world.evaluate("refused", "min_recovery 0.98", 1)
    refused = roadqa("serve", "small")
    assert refused.returncode == 2
    assert "small is not served: its gate refused it" in refused.stderr
    mine = {"ROADQA_S3_BUCKET": "integration", "ROADQA_CACHE_DIR": str(world.folder / "c"), "PYTHONPATH": str(ROOT)}
    inside = subprocess.run(
        [PYTHON, "-m", "workers.inference.serve", "small"],
        env={**os.environ, **servers, **mine}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert inside.returncode == 2
    assert "small is not served: its gate refused it" in inside.stderr
