"""Arrays from an `.npz` file: numbers only, and no more bytes than the file can honestly hold."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from sae_train.formats.stored_tensors import BAD_ZIP, Header, StoredTensors
from steerd.errors import SaeFileError

# Weights hardly compress; what shrinks more than this is no weights.
MAX_COMPRESSION = 32

_DTYPE_NAMES = {"f2": "F16", "f4": "F32", "f8": "F64", "i4": "I32", "i8": "I64"}


def open_npz(path: Path) -> StoredTensors:
    """The arrays of the file, which may be compressed; raises SaeFileError for anything but plain arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive.infolist())
            headers = {
                info.filename.removesuffix(".npy"): _header(path, archive, info)
                for info in archive.infolist()
            }
    except BAD_ZIP as error:
        raise SaeFileError(f"{path}: is not a whole npz file: {error}") from error
    return StoredTensors(path, headers, lambda name: _read(path, name))


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            raise SaeFileError(f"{path}: array {name} is there {count} times")
    found, bound = sum(entry.file_size for entry in entries), MAX_COMPRESSION * path.stat().st_size
    if found > bound:
        raise SaeFileError(f"{path}: expected at most {bound} bytes of arrays, found {found}")


def _header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    where = f"{path}: array {info.filename}"
    if not info.filename.endswith(".npy"):
        raise SaeFileError(f"{where}: expected only .npy arrays")
    try:
        with archive.open(info) as file:
            shape, dtype = _npy_header(file)
            start = file.tell()
    except Exception as error:  # numpy parses headers with Python's own parsers, which raise many things
        reason = str(error).partition("\n")[0]
        raise SaeFileError(f"{where}: is not an array: {type(error).__name__}: {reason}") from error
    if dtype.hasobject or dtype.str[1:] not in _DTYPE_NAMES:
        raise SaeFileError(f"{where}: expected floating-point numbers, found dtype {dtype}")
    size = start + math.prod(shape) * dtype.itemsize
    if size != info.file_size:
        raise SaeFileError(f"{where}: expected {size} bytes for shape {shape}, found {info.file_size}")
    return Header(shape, _DTYPE_NAMES[dtype.str[1:]])


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read[version](file)
    return tuple(map(int, shape)), dtype


def _read(path: Path, name: str) -> Tensor:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except BAD_ZIP as error:
        raise SaeFileError(f"{path}: array {name}: cannot be read: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
