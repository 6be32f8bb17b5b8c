"""What is recorded about each feature: `features.safetensors` for programs, `features.jsonl` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.feature_label import METHODS, RUBRIC_POINTS, FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureExample, FeatureNote
from steerd.sae.json_file import JsonObject, field, list_field, read_json_lines
from steerd.sae.tensor_file import TensorSpec, check_finite, read_tensors, tensor_bytes

_LATER_KEYS = frozenset({"percentile", "sampled", "scores", "judge", "strong", "written"})


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStatistics:
    """How each feature behaved on data, every tensor [d_sae].

    `max_activation` and `mean_activation` (over the tokens where it is active) are in the SAE's own units,
    float32; `density` is the share of tokens where it is active, float32; `dead` is true where it never
    was.
    """

    max_activation: Tensor
    density: Tensor
    mean_activation: Tensor
    dead: Tensor


def read_statistics(path: Path, d_sae: int) -> FeatureStatistics:
    """The statistics of all d_sae features; raises SaeFileError."""
    return FeatureStatistics(**read_tensors(path, _statistics_specs(d_sae)))


def statistics_bytes(statistics: FeatureStatistics, d_sae: int, path: Path) -> bytes:
    """The content of the file at `path`; raises SaeFileError for what `read_statistics` would refuse."""
    tensors = {
        name: getattr(statistics, name).to(torch.bool if name == "dead" else torch.float32)
        for name in _statistics_specs(d_sae)
    }
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if shape != (d_sae,):
            raise SaeFileError(f"{path}: tensor {name}: expected shape {(d_sae,)}, found {shape}")
        check_finite(tensor, f"{path}: tensor {name}")
    return tensor_bytes(tensors)


def read_notes(path: Path, d_sae: int) -> tuple[FeatureNote, ...]:
    """One note a feature, in order; raises SaeFileError that names the line."""
    notes = tuple(_parse_note(record, where) for where, record in read_json_lines(path))
    _check_dense(notes, d_sae, path)
    return notes


def notes_bytes(notes: Sequence[FeatureNote], d_sae: int, path: Path) -> bytes:
    """The content of the file at `path`; raises SaeFileError for what `read_notes` would refuse."""
    _check_dense(notes, d_sae, path)
    try:
        return "".join(_note_line(note) for note in notes).encode()
    except ValueError as error:  # an activation that is not finite, or a text that is not Unicode
        raise SaeFileError(f"{path}: cannot be written: {error}") from error


def _statistics_specs(d_sae: int) -> dict[str, TensorSpec]:
    return {
        column.name: TensorSpec((d_sae,), ("BOOL",) if column.name == "dead" else ("F32",))
        for column in fields(FeatureStatistics)
    }


def _parse_note(record: JsonObject, where: str) -> FeatureNote:
    return FeatureNote(
        feature=field(record, "feature", int, where),
        label=field(record, "label", str, where),
        top_tokens=list_field(record, "top_tokens", str, where),
        promoted_tokens=list_field(record, "promoted_tokens", str, where),
        examples=_parse_examples(record, "examples", where),
        sampled=_parse_examples(record, "sampled", where) if "sampled" in record else (),
        scores=_parse_scores(record, where),
        written=_parse_label(field(record, "written", dict, where), where) if "written" in record else None,
    )


def _parse_examples(record: JsonObject, key: str, where: str) -> tuple[FeatureExample, ...]:
    return tuple(_parse_example(example, where) for example in list_field(record, key, dict, where))


def _parse_example(record: JsonObject, where: str) -> FeatureExample:
    tokens = list_field(record, "tokens", str, where)
    values = list_field(record, "values", float, where)
    if len(tokens) != len(values):
        raise SaeFileError(f"{where}: an example has {len(tokens)} tokens and {len(values)} values")
    percentile = field(record, "percentile", float, where) if "percentile" in record else None
    return FeatureExample(tokens, values, percentile)


def _parse_label(record: JsonObject, where: str) -> FeatureLabel:
    return FeatureLabel(
        text=field(record, "text", str, where),
        scores=_parse_scores(record, where),
        by=field(record, "by", str, where),
    )


def _parse_scores(record: JsonObject, where: str) -> tuple[LabelScore, ...]:
    scores = list_field(record, "scores", dict, where) if "scores" in record else ()
    return tuple(_parse_score(score, where) for score in scores)


def _parse_score(record: JsonObject, where: str) -> LabelScore:
    method = field(record, "method", str, where)
    if method not in METHODS:
        raise SaeFileError(f"{where}: a score's method must be one of {', '.join(METHODS)}, found {method!r}")
    contexts = field(record, "contexts", int, where)
    if contexts < 0:
        raise SaeFileError(f"{where}: contexts must be at least 0, found {contexts}")
    return LabelScore(
        method=method,
        value=_share(record, "value", RUBRIC_POINTS if method == "rubric" else 1, where),
        contexts=contexts,
        judge=field(record, "judge", str, where) if "judge" in record else "",
        strong=_share(record, "strong", 1, where) if "strong" in record else None,
    )


def _share(record: JsonObject, key: str, highest: int, where: str) -> float:
    value = field(record, key, float, where)
    if not 0 <= value <= highest:
        raise SaeFileError(f"{where}: {key} of a score must be from 0 to {highest}, found {value}")
    return value


def _note_line(note: FeatureNote) -> str:
    record = asdict(note, dict_factory=_record)
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _record(items: list[tuple[str, Any]]) -> JsonObject:
    """A dataclass as JSON; what older files do not know is left out where there is none of it.

    Most of a file of contexts are activations of 0, and these are written as plain 0.
    """
    known = (item for item in items if item[0] not in _LATER_KEYS or item[1] not in (None, "", (), []))
    return {key: [each or 0 for each in value] if key == "values" else value for key, value in known}


def _check_dense(notes: Sequence[FeatureNote], d_sae: int, path: Path) -> None:
    for i, note in enumerate(notes):
        if note.feature != i:
            raise SaeFileError(f"{path} line {i + 1}: expected feature {i}, found {note.feature}")
    if len(notes) != d_sae:
        raise SaeFileError(f"{path}: expected {d_sae} lines, one a feature, found {len(notes)}")
