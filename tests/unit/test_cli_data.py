"""What a pipeline file says of data and models is understood, or refused in one line, before anything is done."""

from pathlib import Path
from typing import Any

import pytest

from services.cli import data
from shared.errors import UsageError
from shared.pipeline import Pipeline

NO_NAMES = [
    "",
    ".",
    "..",
    "./name",
    "../name",
    "/name",
    "name/",
    "a//b",
    "a/../b",
    "a\nb",
    "a\x1b[2J",
    "\ud800",
    "x" * 300,
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_cannot_be_a_key_cannot_be_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name") as refused:
        data.check_name(name, "--name", "choose another")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["train", "public test", "org/model", "đường", "v1.2", ".hidden", "a..b"])
def test_any_other_name_will_do(name: str) -> None:
    data.check_name(name, "--name", "choose another")


def check(source: dict[str, Any] | str = "train", model: str = "base") -> None:
    data.check(Pipeline(name="p", data={"train": source}, models={"base": model}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"videos": None}, "data.train.videos: Field required"),
        ({"file": None}, "data.train.file: Field required"),
        ({"name": None}, "data.train.name: Field required"),
        ({"name": "./x"}, "data.train.name: './x' cannot be a name"),
        ({"name": 7}, "data.train.name: Input should be a valid string"),
        ({"file": "absent.json"}, "data.train.file: absent.json is not there"),
        ({"videos": "absent"}, "data.train.videos: absent is not there"),
        ({"answers": "absent.csv"}, "data.train.answers: absent.csv is not there"),
        ({"file": "x" * 300}, "data.train.file: x{300} is not there"),
        ({"vidoes": "."}, "data.train.vidoes: Extra inputs are not permitted"),
        ({"import": "roadbody"}, "data.train.import: must be sandbox, roadbuddy, .*csv.*, not 'roadbody'"),
        ({"import": ["sandbox"]}, "data.train.import: must be"),
        ({"import": None}, "data.train.import: must be"),
        ({"import": "sandbox"}, "data.train.split: Field required"),
    ],
)
def test_a_wrong_import_is_refused_with_its_place_in_the_file(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    source = {"import": "roadbuddy", "file": str(tmp_path), "videos": str(tmp_path), "name": "x"} | changes
    with pytest.raises(UsageError, match=reason) as refused:
        check({field: value for field, value in source.items() if value is not None})
    assert str(refused.value).isprintable()


def test_a_folder_is_no_name_of_a_model_until_it_was_pulled() -> None:
    with pytest.raises(UsageError, match=r"models.base: '\./dir' cannot be a name.*`roadqa models pull \./dir`"):
        check(model="./dir")


def test_a_file_is_no_name_of_a_dataset_until_it_was_imported() -> None:
    with pytest.raises(UsageError, match=r"data.train: '\./train.json' cannot be a name.*`roadqa import`"):
        check("./train.json")


def test_names_are_left_to_the_store() -> None:
    check("train", "no-such-model")
