"""Alerts and scrape jobs, as Prometheus' own promtool reads them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tools import promtool

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "compose" / "observability"
ALERTS = [rule["alert"] for rule in yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"][0]["rules"]]


def said(*words: object) -> tuple[int, str]:
    done = subprocess.run([promtool(), *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What promtool reads, at the same places."""
    for folder in ("compose/observability", "tests/alerts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_is_silent(alert: str) -> None:
    cases = yaml.safe_load((ROOT / "tests/alerts/rules.yml").read_text())["tests"]
    asked = [check for case in cases for check in case["alert_rule_test"] if check["alertname"] == alert]
    assert [check for check in asked if check["exp_alerts"]]
    quiet = [case for case in cases if case["name"].startswith(f"{alert} is silent")]
    assert quiet
    assert not [check for case in quiet for check in case["alert_rule_test"] if check["exp_alerts"]]


def test_alerts_fire_when_they_must_and_only_then() -> None:
    code, printed = said("test", "rules", ROOT / "tests/alerts/rules.yml")
    assert code == 0, printed


@pytest.mark.parametrize(
    ("sound", "broken", "alert"),
    [
        ("absent(roadqa_conductor_last_tick_timestamp_seconds) or ", "", "ConductorBlind"),
        ("_timestamp_seconds > 60", "_timestamp_seconds > 600", "ConductorBlind"),
        ("_timestamp_seconds > 60", "_timestamp_seconds >= 0", "ConductorBlind"),
        ("(roadqa_dead_tasks) > 0", "(roadqa_dead_tasks) > 9", "TasksDead"),
        ("(roadqa_dead_tasks) > 0", "(roadqa_dead_tasks) >= 0", "TasksDead"),
        ('(roadqa_tasks{state="running"}) == 0', '(roadqa_tasks{state="running"}) < 0', "QueueWithoutWorker"),
        ('(roadqa_tasks{state="running"}) == 0', '(roadqa_tasks{state="running"}) >= 0', "QueueWithoutWorker"),
        ('verdict="flagged"} >', 'verdict="flagged"} <', "LabelsFlagged"),
        ('verdict="flagged"} >', 'verdict="flagged"} >=', "LabelsFlagged"),
        ("[10m]))) > 5", "[10m]))) > 50", "TicksSlow"),
        ("quantile(0.95", "quantile(0.999", "TicksSlow"),
    ],
)
def test_an_alert_that_is_wrong_is_caught(copy: Path, sound: str, broken: str, alert: str) -> None:
    file = copy / "compose/observability/alerts.yml"
    assert file.read_text().count(sound) == 1
    file.write_text(file.read_text().replace(sound, broken))
    code, printed = said("test", "rules", copy / "tests/alerts/rules.yml")
    assert code != 0
    assert set(re.findall(r"alertname: (\w+)", printed)) == {alert}


def test_prometheus_takes_its_configuration_with_and_without_gpus(copy: Path) -> None:
    config = copy / "compose/observability/prometheus.yml"
    code, printed = said("check", "config", config)
    assert code == 0, printed
    assert "5 rules found" in printed
    text = config.read_text()
    assert "/etc/prometheus-more/*.yml" in text
    config.write_text(text.replace("/etc/prometheus-more/*.yml", "gpu/scrape.yml"))  # as it is mounted
    code, printed = said("check", "config", config)
    assert code == 0, printed
    (copy / "compose/observability/gpu/scrape.yml").write_text("scrape_configs: [{job: gpu}]\n")
    assert said("check", "config", config)[0] != 0
