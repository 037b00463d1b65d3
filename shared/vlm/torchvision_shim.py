"""Lets PyPI's CUDA build of torchvision be imported beside a CPU build of torch.

PyPI's torchvision on Linux cannot load its operators without CUDA, and its import then dies with
`operator torchvision::nms does not exist`: the Python side registers fakes for two operators that
were never declared. Declaring their schemas first is enough for resizing and normalising, all that
the video processor needs. `python -m shared.vlm.torchvision_shim install` copies this file into
the running interpreter's site-packages and arms it from a `.pth` file, so that every process of that
environment has it, engine children too. It must therefore import nothing but the standard library.
"""

import importlib.machinery
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "_roadqa_torchvision_shim"
OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_kept: list[Any] = []  # a torch.library.Library takes its declarations along when it is collected


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; declares the schemas when torchvision is about to be imported, once."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        if _torchvision_wants_cuda():
            _declare()


def _torchvision_wants_cuda() -> bool:
    """Whether the installed torchvision was built for CUDA. Reads the text: importing it is what fails."""
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"__version__ = '[^']*\+cu\d", version) is not None


def _declare() -> None:
    """Declare the operators' schemas where torch is a CPU build."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        library.define(operator + SCHEMA)
    _kept.append(library)


def arm() -> None:
    """Put the hook in place. Costs nothing until torchvision is imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def install(site_packages: Path) -> Path:
    """Copy this file into `site_packages` and arm it from a `.pth` file; returns the latter's path."""
    shutil.copyfile(__file__, site_packages / f"{MODULE}.py")
    start = site_packages / f"{MODULE}.pth"
    start.write_text(f"import {MODULE}; {MODULE}.arm()\n", encoding="utf-8")
    return start


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m shared.vlm.torchvision_shim install")
    print(install(Path(sysconfig.get_path("purelib"))))
