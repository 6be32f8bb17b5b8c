"""SAELens folders of every kind, written by hand, each with what SAELens computes from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.sae_train.formats.random_weights import (
    D_MODEL,
    D_SAE,
    Forward,
    K,
    Weights,
    Written,
    forward,
    gated_forward,
    jump,
    save_json,
    save_safetensors,
    topk,
)

SAELENS_CFG: dict[str, Any] = {
    "architecture": "standard",
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {
        "sae_lens_version": "6.54.12",
        "model_name": "tiny/host",
        "hook_name": "blocks.1.hook_resid_post",
        "hook_head_index": None,
        "context_size": 128,
    },
}
SAELENS_OLD_CFG: dict[str, Any] = {
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "hook_point": "blocks.1.hook_resid_post",
    "hook_point_head_index": None,
    "model_name": "tiny/host",
}


def saelens(folder: Path, tensors: dict[str, Tensor], cfg: dict[str, Any]) -> Path:
    save_json(folder / "cfg.json", cfg)
    save_safetensors(folder / "sae_weights.safetensors", tensors)
    return folder


def saelens_standard(folder: Path) -> Written:
    w = Weights()
    return Written(saelens(folder, w.ours(), SAELENS_CFG), forward(w, torch.relu, subtract=True))


def saelens_jumprelu(folder: Path) -> Written:
    w, cfg = Weights(), SAELENS_CFG | {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    run = forward(w, lambda pre: jump(pre, w.threshold.double()), subtract=False)
    return Written(saelens(folder, w.ours("threshold"), cfg), run)


def saelens_gated(folder: Path) -> Written:
    w = Weights()
    cfg = SAELENS_CFG | {"architecture": "gated"}
    return Written(saelens(folder, w.gated(), cfg), gated_forward(w, subtract=True))


def saelens_topk(folder: Path) -> Written:
    w = Weights()
    cfg = SAELENS_CFG | {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": False}
    return Written(saelens(folder, w.ours(), cfg), forward(w, topk, subtract=True))


def saelens_topk_ranked(folder: Path) -> Written:
    """Chooses by pre-activation times decoder norm, and reports that."""
    w = Weights()
    cfg = SAELENS_CFG | {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    return Written(saelens(folder, w.ours(), cfg), ranked_forward(w, topk, scale=1.0))


def ranked_forward(w: Weights, activate: Callable[[Tensor], Tensor], *, scale: float) -> Forward:
    norms = w.W_dec.double().norm(dim=1)
    plain = forward(w, lambda pre: activate(pre * norms) / norms, subtract=True, scale=scale)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        acts, recon = plain(x)
        return acts * norms / scale, recon

    return run


def saelens_batch_topk_checkpoint(folder: Path) -> Written:
    """A trainer's, of activations times 0.37: its threshold is of pre-activations times decoder norms."""
    w, scale, threshold = Weights(), 0.37, 0.6
    cfg = SAELENS_CFG | {
        "architecture": "batchtopk",
        "k": 5.0,
        "rescale_acts_by_decoder_norm": True,
        "normalize_activations": "expected_average_only_in",
    }
    tensors = w.ours() | {"topk_threshold": torch.tensor(threshold, dtype=torch.float64)}
    save_json(folder / "activation_scaler.json", {"scaling_factor": scale, "has_whitening": False})
    run = ranked_forward(w, lambda pre: jump(pre, threshold), scale=scale)
    return Written(saelens(folder, tensors, cfg), run)


def saelens_scaled(folder: Path) -> Written:
    w, cfg = Weights(), SAELENS_CFG | {"normalize_activations": "expected_average_only_in"}
    run = forward(w, torch.relu, subtract=True, scale=0.2)
    return Written(saelens(folder, w.ours(), cfg), run, {"activation_scale": 0.2})


def saelens_log_threshold(folder: Path) -> Written:
    w, cfg = Weights(), SAELENS_CFG | {"architecture": "jumprelu"}
    tensors = w.ours() | {"log_threshold": w.threshold.log()}
    run = forward(w, lambda pre: jump(pre, w.threshold.log().double().exp()), subtract=True)
    return Written(saelens(folder, tensors, cfg), run)


def saelens_old_standard(folder: Path) -> Written:
    w = Weights()
    tensors = w.ours() | {"scaling_factor": torch.ones(D_SAE)}
    return Written(saelens(folder, tensors, SAELENS_OLD_CFG), forward(w, torch.relu, subtract=True))


def saelens_old_topk(folder: Path) -> Written:
    w = Weights()
    cfg = SAELENS_OLD_CFG | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    return Written(saelens(folder, w.ours(), cfg), forward(w, topk, subtract=True))


def saelens_old_finetuned(folder: Path) -> Written:
    """Activations are reported without the factors and decoded with them."""
    w, factors = Weights(), torch.linspace(0.5, 2.0, D_SAE)
    cfg = SAELENS_OLD_CFG | {"finetuning_scaling_factor": True, "apply_b_dec_to_input": False}
    plain = forward(w, torch.relu, subtract=False)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        acts, _ = plain(x)
        return acts, (acts * factors.double()) @ w.W_dec.double() + w.b_dec.double()

    return Written(saelens(folder, w.ours() | {"scaling_factor": factors}, cfg), run)
