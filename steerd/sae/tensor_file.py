"""Tensors in a safetensors file: read with every check, turned to bytes for writing.

Always read with `backend="pread"`: through the default memory map, a file that is cut short while it is read
kills the process with SIGBUS, which nothing can catch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerd.errors import SaeFileError

FLOATS = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor in a file must be; dtypes are in safetensors's spelling."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = FLOATS


def read_tensors(path: Path, specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    """Exactly the tensors of `specs`, as stored and finite; raises SaeFileError for anything else.

    Names, shapes and dtypes are compared before any data is read, so a wrong file costs no memory.
    """
    with _opened(path) as file:
        _check_names(path, file.keys(), specs)
        for name, spec in specs.items():
            _check_header(path, name, file.get_slice(name), spec)
        tensors = {name: file.get_tensor(name) for name in specs}
    for name, tensor in tensors.items():
        check_finite(tensor, f"{path}: tensor {name}")
    return tensors


def read_headers(path: Path) -> dict[str, TensorSpec]:
    """Shape and dtype of every tensor in the file, without its data; raises SaeFileError."""
    with _opened(path) as file:
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        return {
            name: TensorSpec(tuple(header.get_shape()), (header.get_dtype(),))
            for name, header in headers.items()
        }


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file with these tensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def check_finite(tensor: Tensor, where: str) -> None:
    """Raises SaeFileError with the first index that holds NaN or an infinity."""
    bad = ~torch.isfinite(tensor)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        count = int(bad.sum())
        found = tensor[index].item()
        raise SaeFileError(f"{where}: expected finite values, found {found} at {index}, {count} such in all")


# Any: safetensors has no types for an open file.
@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            yield file
    except SafetensorError as error:
        raise SaeFileError(f"{path}: is not a whole safetensors file: {error}") from error
    except OSError as error:
        raise SaeFileError(f"{path}: cannot be read: {error}") from error


def _check_names(path: Path, found: list[str], specs: Mapping[str, TensorSpec]) -> None:
    missing = sorted(set(specs) - set(found))
    unexpected = sorted(set(found) - set(specs))
    if missing:
        expected = sorted(specs)
        raise SaeFileError(
            f"{path}: tensor {missing[0]} is missing; expected {expected}, found {sorted(found)}"
        )
    if unexpected:
        raise SaeFileError(f"{path}: tensor {unexpected[0]} is unexpected; expected only {sorted(specs)}")


def _check_header(path: Path, name: str, header: Any, spec: TensorSpec) -> None:
    shape, dtype = tuple(header.get_shape()), header.get_dtype()
    if shape != spec.shape:
        raise SaeFileError(f"{path}: tensor {name}: expected shape {spec.shape}, found {shape}")
    if dtype not in spec.dtypes:
        raise SaeFileError(f"{path}: tensor {name}: expected dtype {' or '.join(spec.dtypes)}, found {dtype}")
