"""A data file's text as rows: UTF-8 only, and what is wrong with one line spoils no other."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.errors import InputError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_OPEN_QUOTE = "unexpected end of data"
LINES_PER_RECORD = 100  #: a quoted field may span so many lines; a quote that is never closed costs its own line only


def read_text(path: Path) -> str:
    """The whole file, without its byte order mark and with `\\n` for every end of a line.

    Raises:
        InputError: absent, or not UTF-8; says what to do.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(_UTF16) or b"\0" in data[:4096]:
        raise InputError(f"{path}: is not UTF-8 but UTF-16, or no text at all; save it as UTF-8")
    try:
        return re.sub("\r\n?", "\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_json(path: Path, what: str) -> Any:
    """The value of a JSON file; `what` it should be is named where it is none.

    Raises:
        InputError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: not {what}: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line that is not blank; the value is the error where the line is not JSON.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            yield number, InputError(f"is not valid JSON (column {error.colno}: {error.msg}); write one value a line")
        except (RecursionError, ValueError) as error:
            yield number, InputError(f"is not valid JSON ({error}); write one value a line")


def json_rows(path: Path, what: str) -> Iterator[tuple[str, Any]]:
    """(place, value) of each row: of a JSON list, or of a file with one object a line.

    Raises:
        InputError: the file cannot be read, or is neither.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, value in json_lines(path):
            yield f"line {number}", value
        return
    found = read_json(path, what)
    if not isinstance(found, list):
        raise InputError(f"{path}: has no list of rows; expected {what} (one object a line: name it .jsonl)")
    for number, value in enumerate(found, 1):
        yield f"row {number}", value


def csv_rows(path: Path, known: set[str]) -> Iterator[tuple[str, dict[str, str] | InputError]]:
    """(place, fields by column) of each record below the header; the error where a record cannot be read.

    The separator is the one of `,` `;` and tab that finds the most `known` columns in the header. Columns are
    matched without case and outer spaces.

    Raises:
        InputError: the file cannot be read, or has no header, or one with a column twice.
    """
    lines = read_text(path).split("\n")
    separator = max(",;\t", key=lambda mark: len(known & set(_columns(lines[0], mark))))
    header = _columns(lines[0], separator)
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"{path}:1: has the column {twice[0]!r} twice; keep one")
    at = 1
    while at < len(lines):
        span, fields = _record(lines, at, separator)
        if not isinstance(fields, InputError) and len(fields) != len(header):
            what = f"has {len(fields)} fields, the header {len(header)}; quote a field that holds a {separator!r}"
            fields = InputError(what)
        if any(line.strip() for line in lines[at : at + span]):
            yield f"line {at + 1}", fields if isinstance(fields, InputError) else dict(zip(header, fields, strict=True))
        at += span


def _columns(line: str, separator: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _record(lines: list[str], at: int, separator: str) -> tuple[int, list[str] | InputError]:
    """(lines it takes, fields) of the record that begins at a line."""
    reason = ""
    for span in range(1, min(LINES_PER_RECORD, len(lines) - at) + 1):
        chunk = io.StringIO("\n".join(lines[at : at + span]), newline="")
        try:
            return span, next(csv.reader(chunk, delimiter=separator, strict=True), [])
        except csv.Error as error:
            reason = str(error)
            if reason != _OPEN_QUOTE:
                break
    return 1, InputError(f"is not CSV: {reason}; write it as the header says, with each quote closed")
