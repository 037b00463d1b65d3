"""Clips that could not be decoded when they were met, noted in a folder by whichever process met them."""

import os
import threading
from pathlib import Path

from shared.errors import MediaError

LIMIT = 0.01  #: of a training's clips; beyond it the data is at fault, not a clip


class Skipped:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def note(self, digest: str, error: MediaError) -> None:
        draft = self._folder / f".{digest}.{os.getpid()}.{threading.get_ident()}"  # a thread works ahead of each rank
        draft.write_text(str(error), encoding="utf-8")
        draft.replace(self._folder / digest)

    def __contains__(self, digest: str) -> bool:
        return (self._folder / digest).exists()

    def found(self) -> dict[str, str]:
        """Digest → why."""
        return {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted(self._folder.iterdir())
            if not path.name.startswith(".")
        }


def judge(skipped: dict[str, str], clips: int) -> None:
    """Accept what was skipped of so many clips.

    Raises:
        MediaError: it is more than `LIMIT` of them; names some.
    """
    if len(skipped) > LIMIT * clips:
        named = "; ".join(list(skipped.values())[:3])
        raise MediaError(
            f"{len(skipped)} of {clips} clips cannot be decoded, more than {LIMIT:.0%}: {named};"
            " take their rows out, or import the clips anew"
        )
