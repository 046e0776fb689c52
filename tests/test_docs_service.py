"""What the guides to the service say of it is so: its metrics, addresses, alerts and settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from service_fakes import FakeBackend
from starlette.applications import Starlette
from starlette.routing import Route

import connector
from connector.sections import ServiceSettings
from connector.service.api import create_app
from connector.service.metrics import Metrics
from connector.service_config import load_service
from connector.serving.logs import log_to

DOCS = Path(connector.__file__).parent.parent / "docs"
SERVICE = (DOCS / "service.md").read_text(encoding="utf-8")
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands below a title, until the next one."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SERVICE, re.DOTALL)


def test_operations_tells_each_metric_that_there_is_and_no_other() -> None:
    written = Metrics(version="0.1.0").text().decode()
    there = set(re.findall(r"^# TYPE (\S+)", written, re.MULTILINE))
    told = set(re.findall(r"`((?:vsync|process)_[a-z_]+)`", section(OPERATIONS, "What to watch")))
    assert told - there == set()
    assert {name for name in there if name.startswith("vsync_")} - told == set()


def test_the_alerts_go_by_metrics_that_there_are_and_operations_says_what_to_do() -> None:
    (group,) = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    there = Metrics(version="0.1.0").text().decode()
    for expression in alerts.values():
        for name in re.findall(r"vsync_[a-z_]+", expression):
            assert f"# TYPE {name} " in there
    assert set(re.findall(r"^\| `(\w+)`", section(OPERATIONS, "Alerts"), re.MULTILINE)) == set(alerts)


def test_the_guide_tells_each_address_that_there_is_and_no_other(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        app = create_app(FakeBackend(), token=None, loopback_only=True, log=log_to(stream))
    assert isinstance(app, Starlette)
    there = {route.path for route in app.routes if isinstance(route, Route)}
    addresses = section(SERVICE, "Addresses").partition("\n\n**")[0]
    assert set(re.findall(r"`(?:GET |POST )?(/[a-z.]*)`", addresses)) == there


def test_the_settings_that_the_guide_shows_are_served(tmp_path: Path) -> None:
    alone, *of_a_folder = snippets("toml")
    (tmp_path / "docs.toml").write_text(alone)
    config = load_service(tmp_path / "docs.toml")
    assert (config.service.interval_seconds, config.service.reconcile) == (300.0, "0 3 * * SUN")
    (tmp_path / "syncs").mkdir()
    for snippet in of_a_folder:
        name = snippet.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(snippet)
    (sync,) = load_service(tmp_path / "syncs").syncs
    assert (sync.name, sync.service.cron, sync.service.time_zone) == ("minutes", "0 6-18 * * MON-FRI", "Europe/Berlin")


def test_the_guide_names_all_settings_that_are_of_the_whole_service() -> None:
    (line,) = (line for line in SERVICE.splitlines() if "are of the whole service" in line)
    assert set(re.findall(r"`([a-z_]+)`", line)) == ServiceSettings.OF_THE_WHOLE


def test_systemd_takes_the_unit_that_the_guide_shows(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze here")
    (unit,) = snippets("ini")
    command = Path(sysconfig.get_path("scripts")) / "vector-sync"
    path = tmp_path / "vector-sync.service"
    path.write_text(unit.replace("/opt/vector-sync/bin/vector-sync", str(command)))
    ran = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
