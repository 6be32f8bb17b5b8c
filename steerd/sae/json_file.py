"""JSON read from disk; every surprise is an `SaeFileError` that says which file and what was expected."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from steerd.errors import SaeFileError

Value = TypeVar("Value", str, int, bool, float, dict[str, Any], list[Any])
# Any stands for what the JSON holds: nothing is known of it before `field` has looked.
JsonObject = dict[str, Any]

_KIND_NAMES = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    float: "a number",
    dict: "an object",
    list: "a list",
}


def read_json_object(path: Path) -> JsonObject:
    """The one JSON object in the file."""
    return _parse_object(_read_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """The JSON object of each line, with words for its place (`.../features.jsonl line 3`)."""
    # not splitlines(): a string may hold U+2028 and other characters that it would cut at
    lines = _read_text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        yield where, _parse_object(line, where)


def field(record: Mapping[str, Any], key: str, kind: type[Value], where: str) -> Value:
    """`record[key]`, which must be there and of that kind."""
    if key not in record:
        raise SaeFileError(f"{where}: key {key!r} is missing")
    value = record[key]
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    # `type` and not isinstance: true is no integer here
    if type(value) is not kind:
        raise SaeFileError(f"{where}: {key} must be {_KIND_NAMES[kind]}, found {reprlib.repr(value)}")
    return value


def positive_field(record: Mapping[str, Any], key: str, where: str) -> int:
    """`record[key]`, an integer of at least 1."""
    value = field(record, key, int, where)
    if value < 1:
        raise SaeFileError(f"{where}: {key} must be at least 1, found {value}")
    return value


def list_field(record: Mapping[str, Any], key: str, kind: type[Value], where: str) -> tuple[Value, ...]:
    """`record[key]`, a list whose elements are all of that kind."""
    values = field(record, key, list, where)
    if set(map(type, values)) <= {kind}:  # as nearly always: a million values of an SAE's notes
        return tuple(values)
    return tuple(field({f"{key}[{i}]": v}, f"{key}[{i}]", kind, where) for i, v in enumerate(values))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SaeFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SaeFileError(f"{path}: is not UTF-8 text: {error}") from error


def _parse_object(text: str, where: str) -> JsonObject:
    try:
        value = json.loads(text, parse_constant=_finite_number, parse_float=_finite_number)
        if "\\ud" in text.lower():  # an escaped half of a character cannot be sent or printed
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise SaeFileError(f"{where}: is not JSON: {error}") from error
    if type(value) is not dict:
        raise SaeFileError(f"{where}: must hold a JSON object, found {reprlib.repr(value)}")
    return value


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
