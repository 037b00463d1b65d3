"""Write every lock file anew: resolve pyproject's extras in fresh environments and keep what pip chose.

A lock is what `pip freeze` says, less the local build tags (`+cpu`): the same file serves machines
whose pip finds CPU builds by itself and those that need PyTorch's index.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from scripts.environments import DEEPSPEED, ENVIRONMENTS, ROOT, TEST_LOCK, TORCH, Environment, index_options

#: CUDA builds that plain PyPI gives; beside a CPU torch they break the imports of the processor and of vLLM.
_UNWANTED = ("torchaudio", "torchcodec", "roadqa", "pip")
#: What the CUDA builds choose for themselves.
_CUDA_DECIDES = ("torch", "torchvision", "triton", "apache-tvm-ffi", "setuptools")
_BUILD_TOOLS = ["setuptools", "wheel", "ninja", "py-cpuinfo"]
_HEADER = "# Exact versions, written by `make locks` from pyproject.toml [{extras}]. Installed with --no-deps.\n"


def main() -> None:
    """All locks, or those of the environments named on the command line."""
    wanted = sys.argv[1:] or [env.name for env in ENVIRONMENTS]
    for env in ENVIRONMENTS:
        if env.name in wanted:
            _lock(env)
            if env.torch:
                _cuda_lock(env)
    _test_lock()
    _image_lock()


def _lock(env: Environment) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _call(sys.executable, "-m", "venv", folder)
        python = Path(folder) / "bin" / "python"
        options = index_options(python) if env.torch else []
        requirements = _requirements(env.extras.split(","))
        late = [r for r in requirements if r.startswith("deepspeed")]
        early = [r for r in requirements if r not in late]
        _call(python, "-m", "pip", "install", "-q", *options, *([TORCH] if env.torch else []), *early,
              *(_BUILD_TOOLS if late else []))  # fmt: skip
        if late:
            _call(python, "-m", "pip", "install", "-q", "--no-build-isolation", *late, **DEEPSPEED)
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True
        ).stdout
    _write(env.lock, frozen, env.extras, _UNWANTED)


def _cuda_lock(env: Environment) -> None:
    """The CUDA builds of an environment: the CPU's versions, but where torch or vLLM want others.

    Resolved by pip's dry run, which needs no GPU. A plain torch is asked for by `===`: with `==` pip would take a CPU
    build where it sees one. DeepSpeed cannot be resolved without a torch to build on: its part is the CPU's.
    """
    pins = [line for line in env.lock.read_text().splitlines() if "==" in line]
    wanted = _requirements(env.extras.replace("-cpu", "-cuda").split(","))
    late = any(r.startswith("deepspeed") for r in wanted)
    wanted = [r.replace("==", "===") if r.startswith("torch") else r for r in wanted if not r.startswith("deepspeed")]
    chosen = _resolve(wanted, [pin for pin in pins if pin.split("==")[0] not in _CUDA_DECIDES])
    rest = {_normal(pin.split("==")[0]): pin for pin in pins} if late else {}
    frozen = "\n".join(sorted((rest | chosen).values(), key=str.lower))
    _write(env.lock.with_name("requirements-cuda.txt"), frozen, env.extras.replace("-cpu", "-cuda"))


def _resolve(requirements: list[str], constraints: list[str]) -> dict[str, str]:
    """Pin by name of all that pip's dry run would install."""
    with tempfile.TemporaryDirectory() as folder:
        bounds, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        bounds.write_text("\n".join(constraints))
        _call(sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed",
              "--report", report, "-c", bounds, *requirements)  # fmt: skip
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {_normal(item["name"]): f"{item['name']}=={item['version']}" for item in found}


def _write(path: Path, frozen: str, extras: str, unwanted: tuple[str, ...] = ("pip", "roadqa")) -> None:
    pins = [re.sub(r"\+.*$", "", line) for line in frozen.splitlines() if "==" in line]
    kept = [pin for pin in pins if pin.split("==")[0] not in unwanted]
    path.write_text(_HEADER.format(extras=extras) + "\n".join(kept) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(kept)} packages")


def _requirements(extras: list[str]) -> list[str]:
    """The requirements of the project with these extras, `roadqa[…]` followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    pending = list(extras)
    while pending:
        for requirement in project["optional-dependencies"][pending.pop()]:
            own = re.fullmatch(r"roadqa\[(.+)\]", requirement)
            pending += own.group(1).split(",") if own else []
            found += [] if own else [requirement]
    return list(dict.fromkeys(found))


def _test_lock() -> None:
    """What a worker's tests need beside its own lock, in the versions of the tools' lock."""
    lines = [line for line in ENVIRONMENTS[0].lock.read_text().splitlines() if "==" in line]
    pins = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    names = ("pytest", "pytest-timeout", "pluggy", "iniconfig", "pygments", "hypothesis", "sortedcontainers")
    lines = "\n".join(f"{name}=={pins[name]}" for name in names)
    TEST_LOCK.write_text(
        f"# What the workers' own tests need beside the worker's lock; written by `make locks`.\n{lines}\n"
    )


def _image_lock() -> None:
    """What of the tools' environment the services' image needs: no test, no local server."""
    pins = [line for line in ENVIRONMENTS[0].lock.read_text().splitlines() if "==" in line]
    chosen = _resolve(_requirements(["services"]), pins)
    _write(ROOT / "services" / "requirements.txt", "\n".join(sorted(chosen.values(), key=str.lower)), "services")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _call(*command: object, **environ: str) -> None:
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, **environ})


if __name__ == "__main__":
    main()
