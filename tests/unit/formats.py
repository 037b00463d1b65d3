"""Questions written in each data format, for the tests of the importers."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from shared.prompts import letter


class Case(NamedTuple):
    """A question as a format's file has it; `answer` is what the file says."""

    id: str = "q1"
    video: str = "day_0001.mp4"
    question: str = "Is the light red?"
    choices: Sequence[str] = ("Yes", "No")
    answer: Any = 1  #: an index, which each format writes as it is used to, or anything to be written as it is
    category: str = "lights"


Written = Callable[[Sequence[Case]], str | bytes]


def _roadbuddy(cases: Sequence[Case]) -> str:
    return json.dumps({"__count__": len(cases), "data": [_lettered(case, "video_path", "choices") for case in cases]})


def _lettered(case: Case, video: str, choices: str) -> dict[str, Any]:
    written = [f"{letter(place)}. {text}" if text else "" for place, text in enumerate(case.choices)]
    answer = case.answer
    if type(answer) is int:
        answer = written[answer] if answer < len(written) and written[answer] else letter(answer)
    row = {"id": case.id, "question": case.question, choices: written, "answer": answer, video: case.video}
    return row | {"category": case.category}


def _sutd(cases: Sequence[Case]) -> str:
    most = max(len(case.choices) for case in cases)
    header = ["record_id", "vid_id", "vid_filename", "perspective", "q_body", "q_type"]
    lines: list[Any] = [[*header, *(f"option{place}" for place in range(most)), "answer"]]
    for case in cases:
        options = [*case.choices, *[""] * (most - len(case.choices))]
        lines.append([case.id, 7, case.video, 0, case.question, case.category, *options, case.answer])
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"


def _videomme(cases: Sequence[Case]) -> str:
    rows = []
    for case in cases:
        row = _lettered(case, "videoID", "options")
        answer = letter(case.answer) if type(case.answer) is int and 0 <= case.answer < 26 else case.answer
        row |= {"question_id": row.pop("id"), "task_type": row.pop("category"), "answer": answer}
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False)


def _nextqa(cases: Sequence[Case]) -> str:
    most = max(len(case.choices) for case in cases)
    header = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type"]
    rows = [[*header, *(f"a{place}" for place in range(most))]]
    for case in cases:
        options = [*case.choices, *[""] * (most - len(case.choices))]
        rows.append([case.video, "9", "1", "1", case.question, _told(case.answer), case.id, case.category, *options])
    return _csv(rows)


def _plain(cases: Sequence[Case]) -> str:
    most = max(len(case.choices) for case in cases)
    rows = [
        ["id", "video", "question", *(f"choice_{letter(place).lower()}" for place in range(most)), "answer", "category"]
    ]
    for case in cases:
        answer = letter(case.answer) if type(case.answer) is int and 0 <= case.answer < 26 else _told(case.answer)
        options = [*case.choices, *[""] * (most - len(case.choices))]
        rows.append([case.id, case.video, case.question, *options, answer, case.category])
    return _csv(rows)


def _told(answer: Any) -> str:
    return "" if answer is None else str(answer)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _sharegpt(cases: Sequence[Case]) -> str:
    rows = []
    for case in cases:
        options = [f"{letter(place)}. {text}" for place, text in enumerate(case.choices) if text]
        asked = "\n".join(["<video>", case.question, *options, "Answer with the letter."])
        turns = [{"from": "human", "value": asked}]
        if case.answer is not None:
            said = letter(case.answer) if type(case.answer) is int and 0 <= case.answer < 26 else str(case.answer)
            turns.append({"from": "gpt", "value": said})
        rows.append({"id": case.id, "video": case.video, "conversations": turns, "category": case.category})
    return json.dumps(rows, ensure_ascii=False)


def _huggingface(cases: Sequence[Case]) -> bytes:
    answers = [case.answer if type(case.answer) is int else None for case in cases]
    columns = {name: [getattr(case, name) for case in cases] for name in ("id", "video", "question", "category")}
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({**columns, "choices": [list(case.choices) for case in cases], "answer": answers}), out)
    return bytes(out.getvalue())


#: Format → (the file's name, its text)
WRITERS: dict[str, tuple[str, Written]] = {
    "roadbuddy": ("rows.json", _roadbuddy),
    "sutd": ("rows.jsonl", _sutd),
    "videomme": ("rows.json", _videomme),
    "nextqa": ("rows.csv", _nextqa),
    "csv": ("rows.csv", _plain),
    "sharegpt": ("rows.json", _sharegpt),
    "huggingface": ("rows.parquet", _huggingface),
}
#: Those whose files are text, and may come in other encodings.
TEXTS = [name for name in WRITERS if name != "huggingface"]


def write(format_: str, folder: Path, *cases: Case, **changed: Any) -> Path:
    """A file of the format with these rows; `encode` and `text` change what is written."""
    name, written = WRITERS[format_]
    body = written([named(format_, case) for case in cases])
    path = folder / name
    if isinstance(body, str):
        body = changed.get("encode", str.encode)(changed.get("text", str)(body))
    path.write_bytes(body)
    return path


def named(format_: str, case: Case) -> Case:
    """The case with its clip named as the format does."""
    path = PurePosixPath(case.video)
    return case._replace(video=str(path.with_suffix(""))) if format_ in ("videomme", "nextqa") else case


def read_id(format_: str, case: Case) -> str:
    """The id under which the importer knows a case."""
    return f"{named(format_, case).video}_{case.id}" if format_ == "nextqa" else case.id
