"""From a host's name to a model and a tokenizer in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from steerd.errors import HostError
from steerd.host.default_host import DEFAULT_HOST_ALIAS, default_host_folder
from steerd.host.int8_head import quantize_head
from steerd.host.quiet import quiet_transformers

if TYPE_CHECKING:
    from hashlib import _Hash

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 65536


class LoadedHost(NamedTuple):
    """A model on its device, its tokenizer, and the folder they were read from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None


def load_pretrained(name: str, *, dtype: str, device: str, weights: str = "as_loaded") -> LoadedHost:
    """Load by alias, local folder or hub id; raises HostError with the reason when that cannot be.

    `weights` is as_loaded, or int8_head for a head in 8 bits.
    """
    torch_dtype, torch_device = _dtype(dtype), _device(device)
    source = _source(name)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch_dtype, trust_remote_code=False)
        model.to(torch_device)  # type: ignore[arg-type]  # a decorator of the library hides its signature
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HostError(f"host {name!r} cannot be loaded: {reason}") from error
    if weights == "int8_head":
        quantize_head(model)
    return LoadedHost(model, tokenizer, _folder_of(source))


def update_from_folder(digest: _Hash, folder: Path) -> None:
    """Feed a host's files into a digest: the config whole, of each weights file its size and 64 even samples.

    Quick for any size; two hosts that differ by training differ everywhere.
    """
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(_NUM_SAMPLES):
                file.seek(i * max(size - _SAMPLE_BYTES, 0) // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))


def _source(name: str) -> str:
    if name == DEFAULT_HOST_ALIAS:
        return str(default_host_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise HostError(
            f"host {name!r} is not a folder; give an existing folder, a hub id or {DEFAULT_HOST_ALIAS!r}"
        )
    return name


def _folder_of(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    config = cached_file(source, "config.json", local_files_only=True)
    return Path(config).parent if config else None


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise HostError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HostError(f"device {name!r} cannot be used: {reason}") from error
    return device
