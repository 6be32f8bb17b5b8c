"""Small random hosts of many architectures, made in memory: the same seed gives the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from steerd.host.host_model import HostModel

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Weights far larger than a real initialisation's, so that layers matter and greedy texts are not monotonous.
_INIT_STD = 0.25

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": _INIT_STD,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 258,
}
_GEMMA_LIKE = _LLAMA_LIKE | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_MOE = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}
_CONFIGS: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, _LLAMA_LIKE),
    "qwen3": (Qwen3Config, _LLAMA_LIKE | {"head_dim": 8}),
    "mistral": (MistralConfig, _LLAMA_LIKE | {"sliding_window": 16}),
    "gemma2": (Gemma2Config, _GEMMA_LIKE),
    "gemma3": (Gemma3TextConfig, _GEMMA_LIKE),
    "gpt2": (GPT2Config, _LLAMA_LIKE),
    "gpt_neox": (GPTNeoXConfig, _LLAMA_LIKE),
    "opt": (OPTConfig, _LLAMA_LIKE | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi3": (Phi3Config, _LLAMA_LIKE),
    "mixtral": (MixtralConfig, _LLAMA_LIKE | _MOE | {"num_local_experts": 4}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        _LLAMA_LIKE | _MOE | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16},
    ),
}
ARCHITECTURES = tuple(_CONFIGS)


def make_tiny_host(
    architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> HostModel:
    """A random host of three layers and d_model 32 with the byte tokenizer; `overrides` go to its config."""
    make_config, values = _CONFIGS[architecture]
    config = make_config(**(values | overrides))
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # torch's grouped matrix product knows no float64
    return host_from_config(config, seed=seed, dtype=dtype)


def host_from_config(
    config: PreTrainedConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> HostModel:
    """A random host of any configuration whose vocabulary is the byte tokenizer's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        _randomise_vectors(model)
    return HostModel(model, byte_tokenizer(), name=f"tiny-{config.model_type}")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Each byte of the UTF-8 text is the token with that id; the special tokens follow from 256 on."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=_CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers use for each byte: itself, or one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _randomise_vectors(model: torch.nn.Module) -> None:
    """Biases and norm weights start as constants, which would hide a mistake in what is added where."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
