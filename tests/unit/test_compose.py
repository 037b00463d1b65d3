"""What every service of the compose files must have; each rule is shown to catch a planted fault."""

import copy
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import secrets
from services.conductor.metrics import Metrics, snapshot

COMPOSE = Path(__file__).parents[2] / "compose"
Services = dict[str, dict[str, Any]]


#: The folder that each file's relative paths are from: its own where it is included, the root's where it is added.
FILES = {"docker-compose": COMPOSE, "compose.observability": COMPOSE.parent}


def of_both(part: str) -> dict[str, Any]:
    """This part of the compose file and of the one for observability."""
    files = [yaml.safe_load((COMPOSE / f"{name}.yml").read_text()) for name in FILES]
    return {name: one for file in files for name, one in file[part].items()}


@pytest.fixture(scope="module")
def services() -> Services:
    return of_both("services")


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
    return (COMPOSE.parent / build["dockerfile"]).read_text() if build else ""


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
    assert out_of_doors(services) == ["labeler", "augmenter", "cli", "grafana"]


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
    assert of_both("secrets").keys() == written
    for file, folder in FILES.items():
        for name, one in yaml.safe_load((COMPOSE / f"{file}.yml").read_text())["secrets"].items():
            assert folder / one["file"] == COMPOSE / "secrets" / name
    assert {secret for one in services.values() for secret in one.get("secrets", [])} == written


@pytest.mark.parametrize("name", ["alerts.yml", "grafana/roadqa.json"])
def test_alerts_and_dashboard_ask_for_nothing_that_the_conductor_does_not_show(name: str) -> None:
    metrics = Metrics()
    metrics.show(snapshot([], set(), set(), Counter()))
    shown = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    asked = set(re.findall(r"roadqa_[a-z_]+", (COMPOSE / "observability" / name).read_text()))
    assert asked
    assert asked <= shown


@pytest.mark.parametrize(("file", "folder"), FILES.items())
def test_what_is_mounted_from_the_checkout_is_there(file: str, folder: Path) -> None:
    services = yaml.safe_load((COMPOSE / f"{file}.yml").read_text())["services"]
    mounted = [volume.split(":")[0] for one in services.values() for volume in one.get("volumes", [])]
    assert [source for source in mounted if source.startswith("./") and not (folder / source).exists()] == []
