"""Every architecture is served as `generate` serves it, or refused before it serves anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    DiffLlamaConfig,
    DogeConfig,
    GptOssConfig,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    NemotronConfig,
    PreTrainedConfig,
)

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.request import GenerationRequest
from steerd.errors import HostError
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase
from steerd.steering.steering import Steering
from tests.engine.recorder import StepLog, run_together
from tests.engine.reference import Reference
from tests.engine.requests import edit, sampling
from tests.engine.serving import serving, tiny_saes
from tests.tiny_hosts import ARCHITECTURES, VOCAB_SIZE, host_from_config, make_tiny_host

# Chunks, pages and rows are summed in another order than in `generate`.
LOGPROB_TOLERANCE = 1e-4

UNTIED = {"tie_word_embeddings": False}  # tied, a random host only repeats its last token
ALL_KEY_HEADS = {"num_key_value_heads": 4}  # as many as query heads: these architectures know no others
SERVED: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ARCHITECTURES} | {
    "gemma2": ("gemma2", UNTIED | {"attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3", UNTIED),
    "gpt2": ("gpt2", ALL_KEY_HEADS),
    "gpt2 scaled by layer": ("gpt2", ALL_KEY_HEADS | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": ("gpt_neox", ALL_KEY_HEADS),
    "opt": ("opt", ALL_KEY_HEADS),
    "llama multi-query": ("llama", {"num_key_value_heads": 1}),
    "phi3 windowed": ("phi3", {"sliding_window": 16}),
    "qwen3 partly windowed": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    ),
    "gemma2 uneven": (
        "gemma2",
        UNTIED | {"num_hidden_layers": 5, "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 3},
    ),
}


def three_requests(host: HostModel) -> list[GenerationRequest]:
    """Steered and not, of 1 to 52 prompt tokens, which is three times the windows of the windowed hosts."""
    wishes = [
        ("Hello there", ()),
        ("a", (edit("sae-0", 3, Add(0.7)),)),
        ("The sea, the sea! " * 3, (edit("sae-1", 5, Add(0.5), Phase.GENERATED), edit("sae-0", 9, Ablate()))),
    ]
    return [
        GenerationRequest(
            id=text,
            prompt_ids=tuple(host.tokenizer(text)["input_ids"]),
            sampling=sampling(20),
            steering=Steering(interventions=interventions),
        )
        for text, interventions in wishes
    ]


@pytest.mark.parametrize("name", SERVED)
def test_batched_is_alone_is_generate(name: str) -> None:
    architecture, overrides = SERVED[name]
    plain = make_tiny_host(architecture, **overrides)
    requests = three_requests(plain)
    references = [Reference(plain, tiny_saes(plain), request) for request in requests]
    assert max(len(set(reference.token_ids)) for reference in references) > 4, "too monotonous to tell"

    with serving(host=make_tiny_host(architecture, **overrides)) as engine:
        batched = run_together(engine, requests)
        alone = [run_together(engine, [request])[0] for request in requests]

    for reference, *recorders in zip(references, batched, alone, strict=True):
        for recorder in recorders:
            assert recorder.token_ids == reference.token_ids
            torch.testing.assert_close(
                torch.tensor(recorder.logprobs),
                torch.tensor(reference.logprobs),
                atol=LOGPROB_TOLERANCE,
                rtol=0,
            )


SMALL_CONFIG = EngineConfig(kv_cache_gib=0.002)
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "eos_token_id": 258,
    "pad_token_id": 258,
    "bos_token_id": None,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_routed_experts": 4}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
CHUNKED = {"attention_chunk_size": 16, "moe_layers": [], "no_rope_layers": [1, 1, 0], "head_dim": 8}
REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "biases that depend on the distance": (
        BloomConfig(**SIZES, n_head=4, n_layer=3),
        "attention that cannot be replaced",
    ),
    "recurrent": (MambaConfig(**SIZES), "attention that cannot be replaced"),
    "attention sinks": (
        GptOssConfig(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
        "attention sinks",
    ),
    "convolutions": (
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv"]),
        "cannot be batched.*conv",
    ),
    "attention in chunks": (
        Llama4TextConfig(**SIZES, **CHUNKED, num_local_experts=2, intermediate_size_mlp=64),
        "cannot be batched.*chunked_attention",
    ),
    "latent keys": (
        DeepseekV3Config(**SIZES, **EXPERTS, **LATENT, n_group=1, topk_group=1),
        "cannot be batched",
    ),
    "no way to hand on the cache": (NemotronConfig(**SIZES), "cannot be batched"),
    "a mask of its own": (DogeConfig(**SIZES), "gives other results in a batch"),
    "two attentions a layer": (DiffLlamaConfig(**SIZES), "gives other results in a batch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_host_that_would_be_wrong_is_refused(what: str) -> None:
    config, reason = REFUSED[what]
    host = host_from_config(config)

    with pytest.raises(HostError, match=f"(?s)host 'tiny-{config.model_type}' .*{reason}"):
        Engine(host, LoadedSaes(host), SMALL_CONFIG, StepLog())


def test_a_config_with_the_wrong_number_of_key_heads_is_refused() -> None:
    """GPT-2 ignores the number, so the memory would be laid out for keys that never come."""
    host = make_tiny_host("gpt2", num_key_value_heads=2)

    with pytest.raises(HostError, match="cannot be batched"):
        Engine(host, LoadedSaes(host), SMALL_CONFIG, StepLog())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3_moe"])
def test_rounding_to_16_bits_is_no_reason_to_refuse(architecture: str, dtype: torch.dtype) -> None:
    host = make_tiny_host(architecture, dtype=dtype)

    Engine(host, LoadedSaes(host), SMALL_CONFIG, StepLog())


@pytest.mark.parametrize(
    "config", [DogeConfig(**SIZES), DiffLlamaConfig(**SIZES)], ids=lambda c: c.model_type
)
def test_a_host_that_would_be_wrong_is_refused_in_16_bits_too(config: PreTrainedConfig) -> None:
    host = host_from_config(config, dtype=torch.bfloat16)

    with pytest.raises(HostError, match="gives other results in a batch"):
        Engine(host, LoadedSaes(host), SMALL_CONFIG, StepLog())
