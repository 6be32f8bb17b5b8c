"""The tensors of one weights file, each taken by name after its shape, dtype and values were checked."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.tensor_file import TensorSpec, check_finite, read_headers, read_tensors

MAX_BYTES = 64 * 2**30
MAX_D_MODEL = 2**17
MAX_D_SAE = 2**24

# What zipfile raises, as it comes, for an archive that is damaged or made up.
BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)

_BYTES_OF = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of a tensor before its data is read; the dtype is in safetensors's spelling."""

    shape: tuple[int, ...]
    dtype: str


class StoredTensors:
    """Named tensors in a file; the data of one is read when it is taken.

    `values` are what else the file holds by name: numbers and words, in a `.pt` file.
    """

    def __init__(
        self,
        path: Path,
        headers: Mapping[str, Header],
        read: Callable[[str], Tensor],
        values: Mapping[str, Any] | None = None,  # Any: whatever a weights-only pickle may hold
    ) -> None:
        self.path = path
        self.values = values or {}
        self._headers = headers
        self._read = read

    @property
    def names(self) -> frozenset[str]:
        """Every tensor in the file."""
        return frozenset(self._headers)

    def expect(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Raises SaeFileError unless the file has the required tensors, and only optional ones beside."""
        missing = sorted(set(required) - self.names)
        unknown = sorted(self.names - set(required) - set(optional))
        if missing:
            raise SaeFileError(
                f"{self.path}: tensor {missing[0]} is missing; "
                f"expected {sorted(required)}, found {sorted(self.names)}"
            )
        if unknown:
            raise SaeFileError(
                f"{self.path}: tensor {unknown[0]} is unexpected; expected only {sorted(required)}"
            )

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """The two widths of a matrix, as stored."""
        shape = self._headers[name].shape
        if len(shape) != 2:
            raise SaeFileError(f"{self.path}: tensor {name}: expected two dimensions, found {shape}")
        return shape[0], shape[1]

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor in float64; raises SaeFileError for another shape, integers, NaN and infinity."""
        header = self._headers[name]
        if header.shape != shape:
            raise SaeFileError(f"{self.path}: tensor {name}: expected shape {shape}, found {header.shape}")
        if header.dtype not in _BYTES_OF:
            raise SaeFileError(
                f"{self.path}: tensor {name}: expected dtype {' or '.join(_BYTES_OF)}, found {header.dtype}"
            )
        size = math.prod(shape) * _BYTES_OF[header.dtype]
        if size > MAX_BYTES:
            raise SaeFileError(
                f"{self.path}: tensor {name}: expected at most {MAX_BYTES} bytes, found {size}"
            )
        tensor = self._read(name)
        check_finite(tensor, f"{self.path}: tensor {name}")
        return tensor.to(torch.float64)

    def whole_number(self, name: str) -> int:
        """The value of a tensor that holds one integer."""
        header = self._headers[name]
        if header.shape != () or header.dtype not in ("I32", "I64"):
            raise SaeFileError(
                f"{self.path}: tensor {name}: expected one integer, found {header.dtype} {header.shape}"
            )
        return int(self._read(name))


def check_widths(path: Path, d_model: int, d_sae: int) -> None:
    """Raises SaeFileError for widths that no SAE has."""
    for name, value, bound in (("d_model", d_model, MAX_D_MODEL), ("d_sae", d_sae, MAX_D_SAE)):
        if not 1 <= value <= bound:
            raise SaeFileError(f"{path}: {name} must be between 1 and {bound}, found {value}")


def open_safetensors(path: Path) -> StoredTensors:
    """The tensors of a safetensors file; raises SaeFileError where it is not whole."""
    specs = read_headers(path)
    loaded: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if not loaded:
            loaded.update(read_tensors(path, {name: TensorSpec(spec.shape) for name, spec in specs.items()}))
        return loaded[name]

    headers = {name: Header(spec.shape, spec.dtypes[0]) for name, spec in specs.items()}
    return StoredTensors(path, headers, read)
