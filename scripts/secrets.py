"""Write compose/secrets/ (random passwords, one file each) and .env (names, tags), where they are missing.

`make secrets`. What is there stays: a second time changes nothing. To change a password, take its file away,
run this again, then `docker compose up -d --force-recreate` (not Grafana's: docs/operations.md).

Where images come ready from a registry nothing else is set up, so any Python 3.8 or later will do, on macOS too.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from shared.machine import vllm_lacks

ROOT = Path(__file__).resolve().parents[1]
SANDBOX_KEY = "sandbox"  #: for the sandbox's teacher, who lets everyone in
_BYTES = 24
_RANDOM = ("redis_password", "roadqa_s3_secret_key", "roadqa_store_root_password", "roadqa_serve_api_key",
           "grafana_password")  # fmt: skip
_NOBODY = 10001  #: the containers' own user


def write(folder: Path, env: Path) -> list[Path]:
    """Write what is missing; returns the new files.

    The folder is its owner's alone; the files in it are readable, since containers read them under a user of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = [_write(folder / name, secrets.token_urlsafe(_BYTES)) for name in _RANDOM]
    made += [_write(folder / "roadqa_s3_access_key", "roadqa"), _write(folder / "roadqa_store_root_user", "admin"),
             _write(folder / "roadqa_gemini_api_key", SANDBOX_KEY),
             _write(folder / "roadqa_openai_api_key", "")]  # fmt: skip
    url = f"redis://:{(folder / 'redis_password').read_text()}@redis:6379/0"
    if made[0] is not None:
        (folder / "roadqa_redis_url").unlink(missing_ok=True)
    made += [_write(folder / "roadqa_redis_url", url), _write(env, _env())]
    return [path for path in made if path is not None]


def _write(path: Path, text: str) -> Path | None:
    """Write a file that is not there yet."""
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        return None
    path.chmod(0o644)
    return path


def _env() -> str:
    example = (ROOT / "compose" / ".env.example").read_text(encoding="utf-8")
    user = f"{os.getuid() or _NOBODY}:{os.getgid() or _NOBODY}"
    own = {"VERSION": version(), "USER": user, "VLLM_LACKS": vllm_lacks()}
    for name, value in own.items():
        example = example.replace(f"ROADQA_{name}=\n", f"ROADQA_{name}={value}\n")
    return example


def version() -> str:
    """The project's, which is also its images' tag. Python has read TOML itself since 3.11 only."""
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "pyproject.toml gives no version"
    return found.group(1)


def main() -> None:
    """`make secrets`"""
    made = write(ROOT / "compose" / "secrets", ROOT / ".env")
    data = ROOT / "data"
    data.mkdir(exist_ok=True)
    if os.getuid() == 0:
        os.chown(data, _NOBODY, _NOBODY)
    for path in made:
        print(path.relative_to(ROOT))
    print(f"{len(made)} files written" if made else "nothing to do: every secret is there")


if __name__ == "__main__":
    main()
