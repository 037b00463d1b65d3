"""Set-up finds CPU builds of torch in both worlds: two small package indexes on loopback, and the real pip."""

import functools
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import environments


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[str]:
    """Base address of `plain` (as PyPI: torch without a local tag) and `cpu` (as PyTorch's own)."""
    wheel(tmp_path / "plain/torch", "2.13.0")
    wheel(tmp_path / "cpu/torch", "2.13.0+cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def wheel(folder: Path, version: str) -> None:
    """An empty torch of this version, and the index page that lists it."""
    folder.mkdir(parents=True)
    name, info = f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as out:
        out.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name.replace("+", "%2B")}">{name}</a>')


@pytest.fixture
def _bare_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine's reaches pip."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.usefixtures("_bare_pip")
@pytest.mark.parametrize(("world", "asks_more"), [("plain", True), ("cpu", False)])
def test_each_world_gets_the_cpu_build(
    world: str, asks_more: bool, indexes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "CPU_INDEX", f"{indexes}/cpu")
    monkeypatch.setenv("PIP_INDEX_URL", f"{indexes}/{world}")
    options = environments.index_options(Path(sys.executable))
    assert options == (["--extra-index-url", f"{indexes}/cpu"] if asks_more else [])
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*command, *options, environments.TORCH], check=True)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["torch-2.13.0+cpu.dist-info"]
