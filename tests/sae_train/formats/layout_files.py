"""SAE files in every other layout, written by hand, each with what the layout's own code computes from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.sae_train.formats import saelens_files
from tests.sae_train.formats.random_weights import (
    D_MODEL,
    D_SAE,
    K,
    Weights,
    Written,
    forward,
    gated_forward,
    jump,
    save_json,
    save_pt,
    save_safetensors,
    topk,
)


def gemma_scope(folder: Path) -> Written:
    w = Weights()
    place = folder / "gemma-scope-2b-pt-res" / "layer_1" / "average_l0_71"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{name: t.numpy() for name, t in w.ours("threshold").items()})
    return Written(place, forward(w, lambda pre: jump(pre, w.threshold.double()), subtract=False))


def gemma_scope_lower_case(folder: Path) -> Written:
    w, stored = Weights(), Weights().ours("threshold")
    stored = {name.replace("W_", "w_"): tensor for name, tensor in stored.items()}
    folder.mkdir()
    np.savez_compressed(folder / "params.npz", **{name: t.numpy() for name, t in stored.items()})
    told = {"hook_point": "blocks.1.hook_mlp_out", "model": "google/gemma-2-2b"}
    run = forward(w, lambda pre: jump(pre, w.threshold.double()), subtract=False)
    return Written(folder / "params.npz", run, told)


def gemma_scope_2(folder: Path) -> Written:
    w, stored = Weights(), Weights().ours("threshold")
    save_safetensors(
        folder / "params.safetensors", {name.replace("W_", "w_"): tensor for name, tensor in stored.items()}
    )
    hook = "model.layers.1.output"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": hook}
    save_json(folder / "config.json", config | {"hf_hook_point_out": hook, "affine_connection": False})
    return Written(folder, forward(w, lambda pre: jump(pre, w.threshold.double()), subtract=False))


SPARSIFY_CFG: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": D_SAE,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D_MODEL,
}


def sparsify(folder: Path, **config: Any) -> Written:
    w, place = Weights(), folder / "layers.1"
    tensors = {"encoder.weight": w.W_enc.T, "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
    save_safetensors(place / "sae.safetensors", tensors)
    save_json(place / "cfg.json", SPARSIFY_CFG | config)
    save_json(folder / "config.json", {"model": "tiny/host", "dataset": "a/corpus", "ctx_len": 2048})
    return Written(place, forward(w, topk, subtract=True))


def sparsify_bfloat16(folder: Path) -> Written:
    written, w = sparsify(folder), Weights()
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        setattr(w, name, getattr(w, name).bfloat16())
    tensors = {"encoder.weight": w.W_enc.T, "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
    save_safetensors(written.path / "sae.safetensors", tensors)
    return Written(written.path, forward(w, topk, subtract=True))


def dictionary_learning(folder: Path, dict_class: str, state: dict[str, Any], **trainer: Any) -> Path:
    place = folder / "trainer_0"
    save_pt(place / "ae.pt", state)
    common = {"dict_class": dict_class, "activation_dim": D_MODEL, "dict_size": D_SAE, "layer": 1}
    said = {"lm_name": "tiny/host", "submodule_name": "resid_post_layer_1"}
    save_json(place / "config.json", {"trainer": common | said | trainer, "buffer": {"io": "out"}})
    return place


def dl_auto_encoder(folder: Path) -> Written:
    w = Weights()
    place = dictionary_learning(folder, "AutoEncoder", w.linear() | {"bias": w.b_dec})
    return Written(place, forward(w, torch.relu, subtract=True))


def dl_auto_encoder_new(folder: Path) -> Written:
    w = Weights()
    place = dictionary_learning(folder, "AutoEncoderNew", w.linear() | {"decoder.bias": w.b_dec})
    return Written(place, forward(w, torch.relu, subtract=False))


def dl_gated(folder: Path) -> Written:
    w = Weights()
    state = {"encoder.weight": w.W_enc.T, "decoder.weight": w.W_dec.T, "decoder_bias": w.b_dec}
    state |= {"r_mag": w.r_mag, "gate_bias": w.b_gate, "mag_bias": w.b_mag}
    place = dictionary_learning(folder, "GatedAutoEncoder", state)
    return Written(place, gated_forward(w, subtract=True))


def dl_topk(folder: Path, **trainer: Any) -> Written:
    w = Weights()
    state = w.linear() | {
        "b_dec": w.b_dec,
        "k": torch.tensor(K, dtype=torch.int),
        "threshold": torch.tensor(0.9),
    }
    place = dictionary_learning(folder, "AutoEncoderTopK", state, k=K, **trainer)
    return Written(place, forward(w, topk, subtract=True))


def dl_topk_without_k(folder: Path) -> Written:
    w = Weights()
    state = w.linear() | {"b_dec": w.b_dec}
    place = dictionary_learning(folder, "AutoEncoderTopK", state, k=K)
    return Written(place, forward(w, topk, subtract=True))


def dl_batch_topk(folder: Path) -> Written:
    w = Weights()
    state = w.linear() | {
        "b_dec": w.b_dec,
        "k": torch.tensor(K, dtype=torch.int),
        "threshold": torch.tensor(0.3),
    }
    place = dictionary_learning(folder, "BatchTopKSAE", state, k=K)
    return Written(place, forward(w, lambda pre: jump(pre, 0.3), subtract=True))


def dl_matryoshka(folder: Path) -> Written:
    w = Weights()
    state = w.ours() | {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.3)}
    state |= {"group_sizes": torch.tensor([10, 30])}
    place = dictionary_learning(folder, "MatryoshkaBatchTopKSAE", state, k=K)
    return Written(place, forward(w, lambda pre: jump(pre, 0.3), subtract=True))


def dl_jumprelu(folder: Path) -> Written:
    w = Weights()
    place = dictionary_learning(folder, "JumpReluAutoEncoder", w.ours("threshold"))
    return Written(place, forward(w, lambda pre: jump(pre, w.threshold.double()), subtract=False))


def openai_state(w: Weights) -> dict[str, Any]:
    return {
        "pre_bias": w.b_dec,
        "latent_bias": w.b_enc,
        "encoder.weight": w.W_enc.T,
        "decoder.weight": w.W_dec.T,
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "latents_activation_frequency": torch.ones(D_SAE),
        "latents_mean_square": torch.zeros(D_SAE),
        "activation": "ReLU",
        "activation_state_dict": {},
    }


def openai(folder: Path) -> Written:
    w, path = Weights(), folder / "gpt2-small" / "resid_delta_mlp_v4" / "autoencoders" / "1.pt"
    save_pt(path, openai_state(w))
    return Written(path, forward(w, torch.relu, subtract=True))


LLAMA_SCOPE_CFG: dict[str, Any] = {
    "hook_point_in": "blocks.1.hook_resid_post",
    "hook_point_out": "blocks.1.hook_resid_post",
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "d_model": D_MODEL,
    "d_sae": D_SAE,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.75,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 2.5, "out": 2.5},
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
}


def llama_scope(folder: Path) -> Written:
    """Decoder rows are brought to norm 1 and the bias to raw activations before the threshold is applied."""
    w, place = Weights(), folder / "Llama3_1-8B-Base-L1R-8x"
    tensors = w.linear() | {"decoder.bias": w.b_dec}
    save_safetensors(place / "checkpoints" / "final.safetensors", tensors)
    save_json(place / "hyperparams.json", LLAMA_SCOPE_CFG)
    scale, norms = D_MODEL**0.5 / 2.5, w.W_dec.double().norm(dim=1)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = jump((x @ w.W_enc.double() + w.b_enc.double() / scale) * norms, 0.75)
        return acts, acts @ (w.W_dec.double() / norms.unsqueeze(1)) + w.b_dec.double() / scale

    return Written(place, run)


def qwen_scope(folder: Path) -> Written:
    w, path = Weights(), folder / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}" / "layer1.sae.pt"
    save_pt(path, {"W_enc": w.W_enc.T, "W_dec": w.W_dec.T, "b_enc": w.b_enc, "b_dec": w.b_dec})
    return Written(path, forward(w, topk, subtract=False))


def goodfire(folder: Path) -> Written:
    w, path = Weights(), folder / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    state = {"encoder_linear.weight": w.W_enc.T, "encoder_linear.bias": w.b_enc}
    save_pt(path, state | {"decoder_linear.weight": w.W_dec.T, "decoder_linear.bias": w.b_dec})
    return Written(folder, forward(w, torch.relu, subtract=False))


WRITERS: tuple[Callable[[Path], Written], ...] = (
    saelens_files.saelens_standard,
    saelens_files.saelens_jumprelu,
    saelens_files.saelens_gated,
    saelens_files.saelens_topk,
    saelens_files.saelens_topk_ranked,
    saelens_files.saelens_batch_topk_checkpoint,
    saelens_files.saelens_scaled,
    saelens_files.saelens_log_threshold,
    saelens_files.saelens_old_standard,
    saelens_files.saelens_old_topk,
    saelens_files.saelens_old_finetuned,
    gemma_scope,
    gemma_scope_lower_case,
    gemma_scope_2,
    sparsify,
    sparsify_bfloat16,
    dl_auto_encoder,
    dl_auto_encoder_new,
    dl_gated,
    dl_topk,
    dl_topk_without_k,
    dl_batch_topk,
    dl_matryoshka,
    dl_jumprelu,
    openai,
    llama_scope,
    qwen_scope,
    goodfire,
)
