"""What runs with each `make test`: two images, the stores, conductor and labeler, from a clone by one command.

Skipped where no engine can be had. `make test-containers` runs it too, before the rest, and does not skip it.
"""

import json

import pytest
import yaml

from tests.containers.engine import NoEngineError
from tests.containers.project import Project

SERVICES = ("redis", "store", "conductor", "labeler")
PIPELINE = {
    "name": "core",
    "video": {"fps": 2, "tokens_per_patch": 6, "max_frames": 8},
    "data": {"public test": {"import": "sandbox", "split": "public-test", "recordings": 2, "seed": 2}},
    "models": {},
    "steps": {
        "labels": {
            "stage": "label",
            "data": "public test",
            "teacher": {"provider": "gemini", "model": "sandbox-teacher"},
        }
    },
}


@pytest.fixture(scope="module")
def core(maybe: Project | NoEngineError) -> Project:
    """The stack as a clone brings it up, where its images are not there yet."""
    if isinstance(maybe, NoEngineError):
        pytest.skip(f"no Docker engine can be had here: {maybe}")
    for image in {maybe.image("store-volume"), maybe.image("labeler")}:
        if maybe.engine.docker("images", "-q", image, capture=True).strip():
            maybe.engine.docker("image", "rm", "-f", image, capture=True)
    maybe.compose("up", "-d", "--build", "--wait", "--quiet-pull", *SERVICES, "teacher")
    return maybe


@pytest.mark.parametrize("service", ["store-volume", "labeler"])
def test_an_image_holds_no_secret_and_runs_as_nobody(core: Project, service: str) -> None:
    core.check_image(service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_hardened_and_healthy(core: Project, service: str) -> None:
    core.check_container(service)


def test_clips_are_labelled(core: Project) -> None:
    (core.folder / "data" / "core.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    run = core.roadqa("run", "core.yaml").strip().splitlines()[-1]
    print(core.roadqa("watch", run))
    state = json.loads(core.roadqa("status", run, "--json"))
    assert state["state"] == "complete"
    (step,) = state["steps"]
    assert step["done"] == step["total"] > 0
