"""What every service of the compose files must have; each rule is shown to catch a planted fault."""

import copy
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import secrets
from services.conductor.metrics import Metrics, snapshot
from tests.tools import compose

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
Services = dict[str, dict[str, Any]]

FILES = ("docker-compose", "compose.observability", "compose.gpu.observability")


def of_all(part: str) -> dict[str, Any]:
    """This part of the compose files, but of compose.gpu.yml, which only adds to services of the first."""
    merged: dict[str, Any] = {}
    for file in FILES:
        for name, one in (yaml.safe_load((COMPOSE / f"{file}.yml").read_text()).get(part) or {}).items():
            merged[name] = {**merged.get(name, {}), **one}
    return merged


@pytest.fixture(scope="module")
def services() -> Services:
    return of_all("services")


def unhardened(services: Services) -> list[str]:
    return [
        name
        for name, one in services.items()
        if not one.get("read_only")
        or one.get("cap_drop") != ["ALL"]
        or "no-new-privileges:true" not in one.get("security_opt", [])
    ]


def unlimited(services: Services) -> list[str]:
    """Services that may eat all memory, or fork without end."""
    limits = {name: one.get("deploy", {}).get("resources", {}).get("limits", {}) for name, one in services.items()}
    return [name for name, some in limits.items() if not {"memory", "pids"} <= some.keys()]


def lasting(service: dict[str, Any]) -> bool:
    return service.get("restart") != "no"


def unwatched(services: Services) -> list[str]:
    """Services without a health check here; the workers' is in their Dockerfile."""
    return [
        name
        for name, one in services.items()
        if lasting(one) and "healthcheck" not in one and "HEALTHCHECK" not in dockerfile(one)
    ]


def dockerfile(service: dict[str, Any]) -> str:
    build = service.get("build")
    return (ROOT / build["dockerfile"]).read_text() if build else ""


def exposed(services: Services) -> list[str]:
    """Ports that others than this machine can reach."""
    return [f"{name}: {port}" for name, one in services.items() for port in one.get("ports", [])
            if not str(port).startswith("127.0.0.1:")]  # fmt: skip


def unpinned(services: Services) -> list[str]:
    """Images that are not named by a variable of .env."""
    return [one["image"] for one in services.values() if not one["image"].startswith("${")]


def loose(env: str) -> list[str]:
    """Images in .env without a tag that holds two numbers, as 7.4 or a date."""
    images = re.findall(r"^ROADQA_\w+_IMAGE=(.*)$", env, re.MULTILINE)
    return [image for image in images if not re.search(r":[\w.-]*\d[.-]\d[\w.-]*(@sha256:\w+)?$", image)]


def test_every_image_of_others_has_an_exact_tag() -> None:
    env = (COMPOSE / ".env.example").read_text()
    assert loose(env) == []
    for fault in ("redis:latest", "redis:7", "redis", "registry:5000/redis:stable"):
        assert loose(f"{env}\nROADQA_OTHER_IMAGE={fault}\n") == [fault]


def told_secrets(services: Services) -> list[str]:
    """Variables that hold what belongs into a secret's file."""
    return [f"{name}: {variable}" for name, one in services.items() for variable in one.get("environment") or {}
            if any(word in variable for word in ("PASSWORD", "SECRET", "KEY", "REDIS_URL"))
            and not variable.endswith("_FILE")]  # fmt: skip


def out_of_doors(services: Services) -> list[str]:
    return [name for name, one in services.items() if one["networks"] != ["inside"]]


RULES = (unhardened, unlimited, unwatched, exposed, unpinned, told_secrets)


@pytest.mark.parametrize("rule", RULES)
def test_the_compose_file_keeps(rule: Callable[[Services], list[str]], services: Services) -> None:
    assert rule(services) == []


def test_only_those_who_ask_a_teacher_and_whoever_is_reached_from_the_host_have_a_way_out(services: Services) -> None:
    assert out_of_doors(services) == ["labeler", "augmenter", "serve", "cli", "grafana"]


FAULTS: list[tuple[Callable[[Services], list[str]], dict[str, Any]]] = [
    (unhardened, {"read_only": False}),
    (unhardened, {"cap_drop": []}),
    (unhardened, {"security_opt": []}),
    (unlimited, {"deploy": {"resources": {"limits": {"memory": "1G"}}}}),
    (exposed, {"ports": ["6379:6379"]}),
    (unpinned, {"image": "redis:latest"}),
    (unpinned, {"image": "redis"}),
    (told_secrets, {"environment": {"ROADQA_S3_SECRET_KEY": "of everyone"}}),
    (out_of_doors, {"networks": ["inside", "outside"]}),
    (unwatched, {"healthcheck": None}),
]


@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_a_planted_fault_is_caught(
    rule: Callable[[Services], list[str]], fault: dict[str, Any], services: Services
) -> None:
    bad = copy.deepcopy(services)
    bad["redis"] |= fault
    bad["redis"] = {key: value for key, value in bad["redis"].items() if value is not None}
    assert rule(bad) != rule(services)


def test_every_secret_is_a_file_that_make_secrets_writes(services: Services, tmp_path: Path) -> None:
    """Nothing starts on a known password: without these files nothing starts at all."""
    secrets.write(tmp_path / "secrets", tmp_path / ".env")
    written = {path.name for path in (tmp_path / "secrets").iterdir()}
    assert {name: ROOT / one["file"] for name, one in of_all("secrets").items()} == {
        name: COMPOSE / "secrets" / name for name in written
    }
    assert {secret for one in services.values() for secret in one.get("secrets", [])} == written


@pytest.mark.parametrize("name", ["alerts.yml", "grafana/roadqa.json"])
def test_alerts_and_dashboard_ask_for_nothing_that_the_conductor_does_not_show(name: str) -> None:
    metrics = Metrics()
    metrics.show(snapshot([], set(), set(), Counter()))
    shown = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    asked = set(re.findall(r"roadqa_[a-z_]+", (COMPOSE / "observability" / name).read_text()))
    assert asked
    assert asked <= shown


def test_an_image_is_built_by_one_service(services: Services) -> None:
    """Two that build one name at once fail where the engine keeps images in containerd's store."""
    built = [one["image"] for one in services.values() if "build" in one]
    assert len(built) == len(set(built)) == 6
    ours = {name for name, one in services.items() if "roadqa-" in one["image"] and "build" not in one}
    assert ours
    assert {services[name]["image"] for name in ours} <= set(built)
    assert {services[name]["pull_policy"] for name in ours} == {"never"}


def test_who_uses_an_image_waits_for_who_brings_it(services: Services) -> None:
    """But for the teacher, which nobody starts alone."""

    def awaited(name: str) -> set[str]:
        direct = set(services[name].get("depends_on") or {})
        return direct.union(*map(awaited, direct))

    brought = {one["image"]: name for name, one in services.items() if "build" in one}
    users = {name: brought[one["image"]] for name, one in services.items() if one.get("pull_policy") == "never"}
    assert {name for name, bringer in users.items() if bringer not in awaited(name)} == {"teacher"}


@pytest.mark.parametrize("worker", ["trainer", "quantizer", "inference"])
def test_an_image_with_triton_has_the_compiler_that_triton_calls(worker: str) -> None:
    folder = ROOT / "workers" / worker
    assert "\ntriton==" in (folder / "requirements-cuda.txt").read_text()
    last_stage = (folder / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"apt-get install .*\b(gcc|g\+\+)", last_stage)


# --- the files together, as Compose reads them -------------------------------------------------------

ALL = ("compose.yaml", "compose/compose.gpu.yml", "compose/compose.observability.yml",
       "compose/compose.gpu.observability.yml")  # fmt: skip


class Checkout:
    """What Compose reads of the project, with `.env` and secrets."""

    def __init__(self, folder: Path) -> None:
        self._env, self.folder = compose(), folder
        shutil.copytree(COMPOSE, folder / "compose", ignore=shutil.ignore_patterns("secrets"))
        shutil.copy(ROOT / "compose.yaml", folder)
        secrets.write(folder / "compose" / "secrets", folder / ".env")
        (folder / "data").mkdir()

    def config(self, *files: str, **env: str) -> Services:
        listed = {"COMPOSE_FILE": ":".join(files)} if files else {}
        done = subprocess.run(
            ["docker", "compose", "--profile", "*", "config", "--format", "json"], cwd=self.folder,
            env={**self._env, **listed, **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: Services = json.loads(done.stdout)["services"]
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def sources(services: Services) -> set[Path]:
    """What is mounted from the checkout."""
    mounts = [mount for one in services.values() for mount in one.get("volumes", [])]
    return {Path(mount["source"]) for mount in mounts if mount["type"] == "bind"}


def test_all_files_together_are_the_cuda_builds_with_the_gpus(checkout: Checkout) -> None:
    services = checkout.config(*ALL, ROADQA_DEVICE_SUFFIX="-cuda")
    built = {"trainer", "quantizer", "inference"}
    wanted = built | {"serve", "dcgm-exporter"}
    for name, one in services.items():
        devices = one["deploy"]["resources"].get("reservations", {}).get("devices", [])
        assert [device["driver"] for device in devices] == (["nvidia"] if name in wanted else []), name
        assert all(device["count"] == -1 and "gpu" in device["capabilities"] for device in devices)
        assert one.get("build", {}).get("args", {}).get("DEVICE") == ("cuda" if name in built else None), name
        assert one["image"].endswith("-cuda") == (name in built | {"serve"}), name
        assert {"memory", "pids"} <= one["deploy"]["resources"]["limits"].keys(), name
    assert services["cli"]["environment"]["ROADQA_VLLM_LACKS"] == ""
    assert {source for source in sources(services) if not source.exists()} == set()
    prometheus = {mount["target"] for mount in services["prometheus"]["volumes"]}
    assert prometheus == {"/prometheus", "/etc/prometheus", "/etc/prometheus-more/gpu.yml"}


def test_without_a_word_about_gpus_there_are_none(checkout: Checkout) -> None:
    services = checkout.config()
    assert "nvidia" not in json.dumps(services)
    assert {source for source in sources(services) if not source.exists()} == set()


@pytest.mark.parametrize("given", ["clips", "./clips", "{root}/clips"])
def test_a_relative_folder_of_data_is_found_from_the_root(checkout: Checkout, given: str) -> None:
    services = checkout.config(ROADQA_DATA=given.format(root=checkout.folder))
    (mount,) = services["cli"]["volumes"]
    assert Path(mount["source"]) == checkout.folder / "clips"
    assert not mount.get("bind", {}).get("create_host_path")
