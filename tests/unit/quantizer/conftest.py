"""One tiny model, one set of rows and one checkpoint of each scheme for all tests of the quantizer."""

from pathlib import Path

import pytest
import torch

from shared.budget import VideoBudget
from shared.context import LocalContext
from shared.contracts import QuantizeRecipe
from shared.schemes import SCHEMES
from tests.unit.quantizer import material
from workers.quantizer.quantize import quantize

torch.set_num_threads(1)  # tiny products: a second thread only waits


def recipe(scheme: str, **fields: object) -> QuantizeRecipe:
    """A small recipe; eight rows calibrate."""
    chosen = {"calibration_rows": 8, "group_size": 64, "system_prompt": "short", "video": VideoBudget()} | fields
    return QuantizeRecipe.model_validate({"scheme": scheme, **chosen})


class Made:
    """A finished checkpoint: its folder, the verb's facts, and what was reported on the way."""

    def __init__(self, scheme: str, model: Path, rows: Path, root: Path) -> None:
        self.scheme, self.folder, self.ctx = scheme, root / "out", LocalContext(root / "scratch")
        self.folder.mkdir()
        self.recipe = recipe(scheme)
        self.facts = quantize({"model": [model], "data": [rows]}, self.recipe, self.folder, self.ctx)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.build_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session", params=list(SCHEMES))
def made(request: pytest.FixtureRequest, model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, model, rows, tmp_path_factory.mktemp("made"))
