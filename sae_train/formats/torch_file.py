"""Tensors from a `.pt` file, which is a pickle: read only after its every instruction was looked at.

Three gates, each closed by itself: the archive holds uncompressed records and no more bytes than the file
has; its pickle names nothing but tensors, their storages and dictionaries; and torch's weights-only reader
builds them. Nothing here, and nothing in the server, ever unpickles freely.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.formats.stored_tensors import BAD_ZIP, Header, StoredTensors
from steerd.errors import SaeFileError

_MAX_PICKLE_BYTES = 2**20

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch.nn.parameter Parameter",
    }
    | {f"torch {name}Storage" for name in _STORAGES}
)

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}


def open_torch_file(path: Path) -> StoredTensors:
    """The state dict that `torch.save` wrote; raises SaeFileError for anything that is not just that."""
    _check_archive(path)
    state = _load(path)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise SaeFileError(f"{path}: expected a state dict, found {type(state).__name__}")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _check_memory(path, name, tensor)
    headers = {name: Header(tuple(t.shape), _dtype_name(t)) for name, t in tensors.items()}
    return StoredTensors(path, headers, lambda name: tensors[name].detach(), values)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_records(path, entries)
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if [entry.filename.split("/")[-1] for entry in pickles] != ["data.pkl"]:
                found = sorted(entry.filename for entry in pickles)
                raise SaeFileError(f"{path}: expected one pickle, data.pkl, in the archive, found {found}")
            if pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise SaeFileError(
                    f"{path}: data.pkl must have at most {_MAX_PICKLE_BYTES} bytes, "
                    f"found {pickles[0].file_size}"
                )
            _check_pickle(path, archive.read(pickles[0]))
    except BAD_ZIP as error:
        raise SaeFileError(
            f"{path}: is not a whole archive of torch.save (since torch 1.6): {error}"
        ) from error


def _check_records(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            raise SaeFileError(f"{path}: record {name} is there {count} times")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise SaeFileError(f"{path}: record {entry.filename} is compressed, which torch.save never does")
    found, bound = sum(entry.file_size for entry in entries), path.stat().st_size
    if found > bound:
        raise SaeFileError(f"{path}: expected records of at most {bound} bytes in all, found {found}")


def _check_pickle(path: Path, content: bytes) -> None:
    """Reads the instructions without following them."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise SaeFileError(f"{path}: data.pkl names code by {opcode.name}; only GLOBAL is read")
            if opcode.name == "GLOBAL" and argument not in _ALLOWED:
                raise SaeFileError(
                    f"{path}: data.pkl asks for {str(argument).replace(' ', '.')}; "
                    "only tensors, plain values and dictionaries are read"
                )
    except ValueError as error:
        raise SaeFileError(f"{path}: data.pkl is not a pickle: {error}") from error


# Any: a state dict may hold anything that the gates let through.
def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise SaeFileError(f"{path}: holds more than weights: {reason or 'see the file'}") from error
    except Exception as error:  # a made-up pickle can bring the reader to raise anything
        reason = str(error).partition("\n")[0]
        raise SaeFileError(f"{path}: cannot be read: {type(error).__name__}: {reason}") from error


def _check_memory(path: Path, name: str, tensor: Tensor) -> None:
    """A stride of zero would let a small file stand for any number of bytes."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise SaeFileError(f"{path}: tensor {name}: expected a dense tensor, found {tensor.layout}")
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored:
        raise SaeFileError(f"{path}: tensor {name}: expected at most the {stored} bytes stored, found {size}")


def _dtype_name(tensor: Tensor) -> str:
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
