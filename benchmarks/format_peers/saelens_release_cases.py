"""Cases of releases that SAELens's own loaders read: Gemma Scope 1 and 2, Llama Scope, Qwen Scope, Goodfire.

`python -m benchmarks.format_peers.saelens_release_cases FOLDER`, in an environment that has sae-lens.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.format_peers.case_files import (
    D_MODEL,
    D_SAE,
    Case,
    Expected,
    K,
    RandomWeights,
    case_folder,
    write_case,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

# Loader -> repository and place on the hub, from which it takes what no file says.
_HUB = {
    "gemma_2_sae_huggingface_loader": ("google/gemma-scope-2b-pt-res", "layer_3/width_4k/average_l0_60"),
    "gemma_3_sae_huggingface_loader": (
        "google/gemma-scope-2-1b-pt",
        "resid_post/layer_3_width_4k_l0_small",
    ),
    "llama_scope_sae_huggingface_loader": ("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L3R-8x"),
    "qwen_scope_sae_huggingface_loader": (f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}", "layer3.sae.pt"),
    "get_goodfire_huggingface_loader": (
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
        "Llama-3.1-8B-Instruct-SAE-l19.pth",
    ),
}


# Any: SAELens's classes have no types here.
Loaded = Any


def main() -> None:
    """Write every case; SAELens's look-ups on the hub are replaced by the file itself."""
    root = Path(sys.argv[1])
    _write_gemma_scope(root)
    _write_llama_scope(root)
    _write_single_files(root)


def _write_gemma_scope(root: Path) -> None:
    weights = RandomWeights(300, d_sae=4096)  # Gemma Scope's path names the width
    stored = {name: getattr(weights, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}

    folder, case = _case(
        root, "JumpReLU", "gemma_scope", "gemma-scope-2b-pt-res/layer_3/width_4k/average_l0_60"
    )
    file = _place(folder, case) / "params.npz"
    np.savez(file, **{name: tensor.numpy() for name, tensor in stored.items()})
    cfg = {"d_in": D_MODEL, "d_sae": 4096}
    _write_release(folder, case, weights, loaders.gemma_2_sae_huggingface_loader, file, cfg)

    folder, case = _case(root, "JumpReLU", "gemma_scope_2", "resid_post/layer_3_width_4k_l0_small")
    file = _place(folder, case) / "params.safetensors"
    lower = {name.replace("W_", "w_"): tensor.contiguous() for name, tensor in stored.items()}
    save_file(lower, file)
    config = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-1b-pt",
        "hf_hook_point_in": "model.layers.3.output",
    }
    (file.parent / "config.json").write_text(json.dumps(config))
    loaders.get_safetensors_tensor_shapes = lambda *_: {k: list(v.shape) for k, v in lower.items()}
    _write_release(folder, case, weights, loaders.gemma_3_sae_huggingface_loader, file, {})


def _write_llama_scope(root: Path) -> None:
    """Decoder rows of norm 1: SAELens leaves out the step that would bring others there."""
    weights, norm = RandomWeights(301), 29.125
    scale = D_MODEL**0.5 / norm
    folder, case = _case(root, "JumpReLU", "llama_scope", "Llama3_1-8B-Base-L3R-8x")
    file = _place(folder, case) / "checkpoints" / "final.safetensors"
    file.parent.mkdir(exist_ok=True)
    tensors = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.W_unit.T,
        "decoder.bias": weights.b_dec,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    hyperparams = {
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.75390625,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "sparsity_include_decoder_norm": True,
        "use_glu_encoder": False,
    }
    (_place(folder, case) / "hyperparams.json").write_text(json.dumps(hyperparams))
    weights.x *= 3  # so that some features pass the threshold
    sae = _through(loaders.llama_scope_sae_huggingface_loader, file, {}, root_of_hub=_place(folder, case))
    sae.fold_activation_norm_scaling_factor(scale)
    found = _expected(sae, weights)
    # SAELens counts normalised units there, Llama Scope's own loader raw ones.
    write_case(folder, case, Expected(found.x, found.acts / scale, found.recon))


def _write_single_files(root: Path) -> None:
    weights = RandomWeights(302)
    folder, case = _case(root, "TopK", "qwen_scope", f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}/layer3.sae.pt")
    file = folder / case.path
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        "W_enc": weights.W_enc.T,
        "W_dec": weights.W_dec.T,
        "b_enc": weights.b_enc,
        "b_dec": weights.b_dec,
    }
    torch.save({name: tensor.contiguous() for name, tensor in stored.items()}, file)
    cfg = {"d_in": D_MODEL, "d_sae": D_SAE}
    _write_release(folder, case, weights, loaders.qwen_scope_sae_huggingface_loader, file, cfg)

    folder, case = _case(root, "ReLU", "goodfire", "Llama-3.1-8B-Instruct-SAE-l19.pth")
    file = folder / case.path
    file.parent.mkdir(parents=True, exist_ok=True)
    encoder, decoder = torch.nn.Linear(D_MODEL, D_SAE), torch.nn.Linear(D_SAE, D_MODEL)
    with torch.no_grad():
        encoder.weight.copy_(weights.W_enc.T)
        encoder.bias.copy_(weights.b_enc)
        decoder.weight.copy_(weights.W_dec.T)
        decoder.bias.copy_(weights.b_dec)
    pair = torch.nn.ModuleDict({"encoder_linear": encoder, "decoder_linear": decoder})
    torch.save(pair.state_dict(), file)
    _write_release(folder, case, weights, loaders.get_goodfire_huggingface_loader, file, cfg)


def _write_release(
    folder: Path,
    case: Case,
    weights: RandomWeights,
    loader: Callable[..., Any],
    file: Path,
    cfg: dict[str, Any],
) -> None:
    write_case(folder, case, _expected(_through(loader, file, cfg), weights))


def _through(
    loader: Callable[..., Any], file: Path, cfg: dict[str, Any], root_of_hub: Path | None = None
) -> Loaded:
    """The SAE that one of SAELens's loaders for the hub makes of a file on this machine."""
    repository, place = _HUB[loader.__name__]

    def local(*arguments: str, filename: str = "", **_: Any) -> str:
        name = Path(filename or arguments[1]).name
        return str(file if name == file.name else (root_of_hub or file.parent) / name)

    loaders.hf_hub_download = local
    overrides = cfg | {"dtype": "float32"}
    record, tensors, _ = loader(repository, place, "cpu", False, overrides)
    record = loaders.handle_config_defaulting(record)
    sae = SAE.from_dict(record)
    sae.process_state_dict_for_loading(tensors)
    sae.load_state_dict(tensors)
    return sae


def _case(root: Path, kind: str, layout: str, path: str) -> tuple[Path, Case]:
    peer = f"sae_lens {version('sae-lens')}"
    case = Case(peer=peer, layout=layout, kind=kind, path=f"sae/{path}")
    return case_folder(root, case), case


def _place(folder: Path, case: Case) -> Path:
    place = folder / case.path
    place.mkdir(parents=True, exist_ok=True)
    return place


def _expected(sae: Loaded, weights: RandomWeights) -> Expected:
    with torch.no_grad():
        acts = sae.encode(weights.x)
        return Expected(weights.x, acts, sae.decode(acts))


if __name__ == "__main__":
    main()
