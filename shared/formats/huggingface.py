"""A Hugging Face `datasets` folder: parquet with features, a README that `load_dataset(folder)` reads, clips as files.

Questions on clips of a test set are the split `test`, all others `train`.
Source: the documentation of `datasets` (features in a parquet file's metadata, `configs` in the README).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import InputError
from shared.formats import rows
from shared.formats.common import Imported
from shared.formats.rows import Form, Item, Options, Raw, RowError
from shared.schema import Question

WHAT = "a parquet file of a Hugging Face `datasets` folder"
FILE = "data/*.parquet"
_FORM = Form(prefixed=False, answer="index", base=0)
_BATCH = 1000
_TEXT: dict[str, Any] = {"dtype": "string", "_type": "Value"}
_FEATURES: dict[str, Any] = {
    "id": _TEXT,
    "video": _TEXT,
    "question": _TEXT,
    "choices": {"feature": _TEXT, "_type": "List"},
    "labels": {"feature": _TEXT, "_type": "List"},
    "answer": {"dtype": "int64", "_type": "Value"},
    "category": _TEXT,
    "language": _TEXT,
    "recording": _TEXT,
    "origin": _TEXT,
}
_TYPES = {"string": pa.string(), "int64": pa.int64()}
_MARK = "written by RoadQA."
_README = """\
---
configs:
- config_name: default
  data_files:
{files}
---

Multiple-choice questions on traffic clips, written by RoadQA.

| column | holds |
|---|---|
| `id` | the question's id |
| `video` | path of its clip in this folder |
| `question`, `choices` | the texts; an empty choice keeps its place |
| `labels` | the letters that the choices had in their source |
| `answer` | index of the right choice, from 0; null where it is not known |
| `category`, `language`, `recording` | kind of question, `en` or `vi`, and the recording that the clip was cut from |
| `origin` | JSON: who answered, and what the row was made from |
"""


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a parquet file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that `video` starts from.

    Raises:
        InputError: the file itself cannot be read.
    """
    return rows.take(path, _items(path), _parse, videos, _FORM, **options)


def _items(path: Path) -> Iterator[Item]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if not {"id", "video", "question", "choices"} <= set(file.schema_arrow.names):
                raise InputError(f"{path}: must have the columns id, video, question, choices (and answer, an index)")
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Item(f"row {number}", row, row["id"])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not {WHAT}: {str(error).splitlines()[0]}") from error


def _parse(row: dict[str, Any]) -> Raw:
    origin = row.get("origin")
    try:
        known = json.loads(origin) if isinstance(origin, str) else None
    except ValueError as error:
        raise RowError(f"has an origin that is not JSON ({error}); mend it, or leave the column out") from error
    return Raw(
        row["question"],
        row["choices"],
        row["video"],
        row["id"],
        row.get("answer"),
        row.get("category"),
        row.get("language"),
        row.get("recording"),
        row.get("split"),
        known,
        row.get("labels"),
    )


def write(
    folder: Path, questions: Iterable[Question], names: Mapping[str, str], recordings: Mapping[str, str]
) -> list[str]:
    """Write `data/<split>.parquet` and `README.md`. Holds any question.

    Raises:
        InputError: another `README.md` is there already.
    """
    readme = folder / "README.md"
    if readme.exists() and _MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{readme}: was not written by RoadQA and would be lost; give an empty folder")
    (folder / "data").mkdir(exist_ok=True)
    arrow = {name: _arrow(feature) for name, feature in _FEATURES.items()}
    info = json.dumps({"info": {"features": _FEATURES}})
    schema = pa.schema(list(arrow.items()), metadata={"huggingface": info})
    writers: dict[str, pq.ParquetWriter] = {}
    held: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        split = "test" if question.origin.test_derived else "train"
        if split not in writers:
            writers[split], held[split] = pq.ParquetWriter(folder / "data" / f"{split}.parquet", schema), []
        held[split].append(_row(question, names[question.clip], recordings[question.clip]))
        if len(held[split]) == _BATCH:
            writers[split].write_table(pa.Table.from_pylist(held.pop(split), schema))
            held[split] = []
    for split, writer in writers.items():
        writer.write_table(pa.Table.from_pylist(held[split], schema))
        writer.close()
    files = "\n".join(f"  - split: {split}\n    path: data/{split}.parquet" for split in sorted(writers, reverse=True))
    readme.write_text(_README.format(files=files), encoding="utf-8")
    return []


def _arrow(feature: dict[str, Any]) -> pa.DataType:
    return pa.list_(_arrow(feature["feature"])) if feature["_type"] == "List" else _TYPES[feature["dtype"]]


def _row(question: Question, name: str, recording: str) -> dict[str, Any]:
    return {
        "id": question.id,
        "video": name,
        "question": question.text,
        "choices": [choice.text for choice in question.choices],
        "labels": [choice.label for choice in question.choices],
        "answer": question.answer,
        "category": question.category,
        "language": question.language,
        "recording": recording,
        "origin": question.origin.model_dump_json(),
    }
