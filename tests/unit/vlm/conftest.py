"""One tiny model for the whole run."""

from pathlib import Path

import pytest

from shared.vlm.encode import Encoder
from tests.unit.vlm.tiny import write_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def encoder(model_dir: Path) -> Encoder:
    return Encoder(model_dir)
