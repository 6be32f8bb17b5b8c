"""What is recorded about each feature: `features.safetensors` for programs, `features.jsonl` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.json_file import JsonObject, field, list_field, read_json_lines
from steerd.sae.tensor_file import TensorSpec, check_finite, read_tensors, tensor_bytes


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


@dataclass(frozen=True, slots=True)
class FeatureExample:
    """One context in which a feature is active: its tokens, and the feature's activation at each."""

    tokens: Sequence[str]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class FeatureNote:
    """What a person reads about one feature.

    `top_tokens` are the tokens where it is most active, `promoted_tokens` those whose logits its direction
    raises.
    """

    feature: int
    label: str
    top_tokens: Sequence[str]
    promoted_tokens: Sequence[str]
    examples: Sequence[FeatureExample]


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
        examples=tuple(_parse_example(e, where) for e in list_field(record, "examples", dict, where)),
    )


def _parse_example(record: JsonObject, where: str) -> FeatureExample:
    tokens = list_field(record, "tokens", str, where)
    values = list_field(record, "values", float, where)
    if len(tokens) != len(values):
        raise SaeFileError(f"{where}: an example has {len(tokens)} tokens and {len(values)} values")
    return FeatureExample(tokens, values)


def _note_line(note: FeatureNote) -> str:
    return json.dumps(asdict(note), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _check_dense(notes: Sequence[FeatureNote], d_sae: int, path: Path) -> None:
    for i, note in enumerate(notes):
        if note.feature != i:
            raise SaeFileError(f"{path} line {i + 1}: expected feature {i}, found {note.feature}")
    if len(notes) != d_sae:
        raise SaeFileError(f"{path}: expected {d_sae} lines, one a feature, found {len(notes)}")
