"""A Docker engine and base images to build on: the machine's own, or stand-ins where it has none.

Where `docker info` answers, that engine is used and base images come from their registry. Elsewhere, as root on
Debian, an engine is installed and started on a socket of its own, and stand-ins for the base images are made of
Debian packages: they show that the project's Dockerfiles build and run, not that the official images do.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from tests.tools import DOCKER_CONFIG, STATE, UNPACKED

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS, _STOP_SECONDS = 60, 120
_APT = (
    *("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root"),
    *("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"),
)
_SUITE, _PLUGIN_SUITE = "bookworm", "trixie"  # the first has an engine, but neither compose nor buildx
_MIRROR = "http://deb.debian.org/debian"


class NoEngineError(Exception):
    """No Docker engine, or no base images, can be had on this machine; says why."""


class Engine(NamedTuple):
    """`env`: what `docker` needs to reach it; `standins`: whether the base images are stand-ins."""

    env: Mapping[str, str]
    standins: bool

    def docker(self, *words: object, capture: bool = False, **env: str) -> str:
        """Run `docker`, its output shown or returned.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            ["docker", *map(str, words)], cwd=ROOT, env={**os.environ, **self.env, **env}, check=True, text=True,
            stdout=subprocess.PIPE if capture else None,
        )  # fmt: skip
        return done.stdout or ""

    @contextmanager
    def reading(self, *words: str) -> Iterator[IO[bytes]]:
        """What a `docker` command writes, as it comes.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        command = ["docker", *words]
        with subprocess.Popen(command, env={**os.environ, **self.env}, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield process.stdout
            while process.stdout.read(1 << 20):  # the end of a tar is padding, which its reader leaves
                pass
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)


@contextmanager
def engine() -> Iterator[Engine]:
    """The machine's engine, or one of our own, which is stopped by its pid afterwards; images are kept for the next.

    Raises:
        NoEngineError: there is none, and none can be installed or started.
    """
    if _answers({}):
        yield Engine({}, standins=False)
        return
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where Debian keeps dockerd, iptables and chroot
    _install()
    env = {"DOCKER_HOST": f"unix://{STATE}/docker.sock", "DOCKER_CONFIG": str(DOCKER_CONFIG)}
    pid, log = STATE / "docker.pid", STATE / "dockerd.log"
    dockerd = None
    if not _answers(env):  # unless a killed run left one behind
        _stop(pid)
        with log.open("wb") as out:
            dockerd = subprocess.Popen(
                ["dockerd", f"--data-root={STATE}/data", f"--exec-root={STATE}/exec",
                 f"-H=unix://{STATE}/docker.sock", f"--pidfile={pid}"],
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
    try:
        _await(lambda: _answers(env), dockerd, log)
        yield (own := Engine(env, standins=True))
        own.docker("image", "prune", "-f", capture=True)  # a set of images is 11 GB: what is superseded goes
        own.docker("builder", "prune", "-f", "--keep-storage", "30GB", capture=True)
    finally:
        _stop(pid)


def _answers(env: Mapping[str, str]) -> bool:
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, check=False, env={**os.environ, **env})
    return asked.returncode == 0


def _await(ready: Callable[[], bool], dockerd: subprocess.Popen[bytes] | None, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if (dockerd and dockerd.poll() is not None) or time.monotonic() > deadline:
            last = (log.read_text(errors="replace").splitlines() or [""])[-1]
            raise NoEngineError(f"dockerd did not start ({log}): {last}")
        time.sleep(0.2)


def _stop(pid: Path) -> None:
    try:
        process = psutil.Process(int(pid.read_text()))
        if process.name() == "dockerd":
            process.terminate()
            process.wait(_STOP_SECONDS)
    except (FileNotFoundError, psutil.NoSuchProcess):
        return


# --- set-up of an engine ---------------------------------------------------------------------------


def _install() -> None:
    """Install an engine and its plugins from Debian."""
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise NoEngineError("none answers, and only root on Debian can install one here: start Docker first")
    wanted = {"dockerd": "docker.io", "mmdebstrap": "mmdebstrap", "iptables": "iptables"}
    missing = [package for program, package in wanted.items() if not shutil.which(program)]
    if missing:
        _set_up(*_APT, "update")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # no engine but our own
        _set_up(*_APT, "install", "-y", "--no-install-recommends", *missing, env=quiet)
    STATE.mkdir(parents=True, exist_ok=True)
    plugins = DOCKER_CONFIG / "cli-plugins"
    if not plugins.is_dir():
        _plugins(plugins)


def _plugins(folder: Path) -> None:
    """Unpack compose, buildx and promtool of a later Debian, without touching this one's packages."""
    tree = UNPACKED.parent
    for name in ("state/lists/partial", "cache/archives/partial", "etc", UNPACKED.name):
        (tree / name).mkdir(parents=True, exist_ok=True)
    signed = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (tree / "etc/sources.list").write_text(f"deb [signed-by={signed}] {_MIRROR} {_PLUGIN_SUITE} main\n")
    (tree / "state/status").touch()
    options = [f"Dir::Etc::sourcelist={tree}/etc/sources.list", "Dir::Etc::sourceparts=-", f"Dir::State={tree}/state",
               f"Dir::State::status={tree}/state/status", f"Dir::Cache={tree}/cache"]  # fmt: skip
    apt = [*_APT, *(word for option in options for word in ("-o", option))]
    _set_up(*apt, "update")
    _set_up(*apt, "download", "docker-compose", "docker-buildx", "promtool", cwd=tree)
    for package in tree.glob("*.deb"):
        _set_up("dpkg-deb", "-x", package, UNPACKED)
    folder.mkdir(parents=True)
    for plugin in UNPACKED.glob("usr/libexec/docker/cli-plugins/*"):
        shutil.copy(plugin, folder)


def _set_up(*words: object, **how: Any) -> None:
    done = subprocess.run([*map(str, words)], check=False, **how)
    if done.returncode:
        raise NoEngineError(f"`{' '.join(map(str, words[:1] + words[-3:]))}` failed ({done.returncode})")


# --- base images ---------------------------------------------------------------------------------


def base_images(engine: Engine, images: Mapping[str, str]) -> None:
    """See that `images` ({"python"|"redis"|"store": name}) are there: pulled, or made.

    Raises:
        NoEngineError: their registry does not give one.
    """
    if engine.standins:
        standins(engine, images)
        return
    for name in images.values():
        if not engine.docker("images", "-q", name, capture=True).strip():
            try:
                engine.docker("pull", "-q", name)
            except subprocess.CalledProcessError as error:
                raise NoEngineError(f"there is one, but it cannot pull {name}") from error


# --- stand-ins for base images ---------------------------------------------------------------------


def standins(engine: Engine, images: Mapping[str, str]) -> None:
    """Make `images` ({"python"|"redis"|"store": name}) of Debian, and for S3 of the local stack's own server."""
    context = STATE / "standins"
    context.mkdir(parents=True, exist_ok=True)
    if not engine.docker("images", "-q", _BASE, capture=True).strip():
        tar = STATE / "base.tar"
        _set_up("mmdebstrap", "-q", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, tar)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        engine.docker("import", "-c", f"ENV PATH={path}", tar, _BASE)
        tar.unlink()
    (context / "pip.conf").write_text(_pip_conf())
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)  # a machine without a registry has its own, often
    shutil.copy(Path(sys.executable).parent / "weed", context)
    shutil.copy(Path(__file__).with_name("store.sh"), context)
    for kind, name in images.items():
        (context / "Dockerfile").write_text(f"FROM {_BASE}\n{_LAYERS[kind]}")
        engine.docker("build", "-q", "-t", name, context)


_PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-dev,python3-pip,python3-venv,redis-server"
_BASE = f"roadqa-standin:{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:8]}"
_LAYERS = {
    "python": """RUN ln -s /usr/bin/python3 /usr/local/bin/python && rm /usr/lib/python3*/EXTERNALLY-MANAGED
COPY pip.conf /etc/pip.conf
COPY ca-certificates.crt /etc/ssl/certs/
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
""",
    "redis": "RUN install -d -o 999 -g 999 /data\nWORKDIR /data\n",
    "store": """RUN install -d /data
COPY weed /usr/local/bin/
COPY --chmod=755 store.sh /usr/local/bin/minio
RUN ln -s minio /usr/local/bin/mc
ENTRYPOINT ["minio"]
""",
}


@functools.cache  # asked for each file that is served
def _pip_conf() -> str:
    """This machine's own package sources, for builds in the host's network."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    options = {}
    for line in listed.stdout.splitlines():  # what wins comes last
        name, _, value = line.partition("=")
        option = name.split(".")[-1]
        if option in ("index-url", "extra-index-url", "find-links", "default-timeout"):
            words = [word.removeprefix("file://") for word in value.strip("'").split()]
            options[option] = " ".join(f"{_SERVED}{word}" if word.startswith("/") else word for word in words)
    return "\n".join(["[global]", *(f"{option} = {value}" for option, value in options.items())]) + "\n"


#: Where folders of packages on this machine are served to builds. A fixed port: it stands in a layer.
_PORT = 18963
_SERVED = f"http://127.0.0.1:{_PORT}"


@contextmanager
def packages_served() -> Iterator[None]:
    """Serve this machine's folders of packages on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", _PORT), functools.partial(_Quiet, directory="/"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        """Nothing but what pip.conf names: the root of this machine holds more."""
        found = super().translate_path(path)
        shared = [url.removeprefix(_SERVED) for url in _pip_conf().split() if url.startswith(_SERVED)]
        folders = [Path(folder).parent if Path(folder).name == "simple" else Path(folder) for folder in shared]
        return found if any(Path(found).is_relative_to(folder) for folder in folders) else os.devnull

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
