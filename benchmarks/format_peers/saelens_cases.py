"""Cases of SAELens: what it saves, its trainers' checkpoints, its older configurations, and the releases of
others (Gemma Scope, Llama Scope, Qwen Scope, Goodfire) as its loaders read them.

`python -m benchmarks.format_peers.saelens_cases FOLDER`, in an environment that has sae-lens.
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
    from sae_lens import SAE, TrainingSAE
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.training.activation_scaler import ActivationScaler

_PEER = f"sae_lens {version('sae-lens')}"
_METADATA = {"model_name": "tiny/host", "hook_name": "blocks.3.hook_resid_post", "hook_head_index": None}
_SCALE = 0.37

_SAVED: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": K},
    "topk, ranked by norm": {"k": K, "rescale_acts_by_decoder_norm": True},
}
_CHECKPOINTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": K},
    "batchtopk": {"k": float(K)},
    "batchtopk, norms left out": {"k": float(K), "rescale_acts_by_decoder_norm": False},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [D_SAE // 4, D_SAE]},
}

# Any: SAELens's classes have no types here.
Loaded = Any


def main() -> None:
    """Write every case."""
    root = Path(sys.argv[1])
    _write_saved(root)
    _write_checkpoints(root)
    _write_older(root)
    _write_refused(root)
    _write_releases(root)


def _write_saved(root: Path) -> None:
    for seed, (kind, settings) in enumerate(_SAVED.items()):
        for on_input in (False, True):
            weights = RandomWeights(seed)
            name = kind + (", b_dec on input" if on_input else "")
            cfg = _cfg(kind.partition(",")[0], apply_b_dec_to_input=on_input, **settings)
            sae = _filled(SAE.from_dict(cfg), weights)
            folder, case = _case(root, name)
            sae.save_model(folder / case.path)
            write_case(folder, case, _expected(SAE.load_from_disk(folder / case.path), weights))


def _write_checkpoints(root: Path) -> None:
    """What a trainer leaves behind, against the inference model that it exports from the same weights."""
    for seed, (kind, settings) in enumerate(_CHECKPOINTS.items()):
        for scale in (None, _SCALE):
            weights = RandomWeights(100 + seed)
            norm = "none" if scale is None else "expected_average_only_in"
            cfg = _cfg(kind.partition(",")[0], normalize_activations=norm, **settings)
            sae = _filled(TrainingSAE.from_dict(cfg), weights)
            folder, case = _case(root, f"checkpoint {kind}" + (", scaled" if scale else ""))
            sae.save_model(folder / case.path)
            ActivationScaler(scale).save(str(folder / case.path / "activation_scaler.json"))
            if scale is not None:
                sae.fold_activation_norm_scaling_factor(scale)
            sae.save_inference_model(folder / "exported")
            write_case(folder, case, _expected(SAE.load_from_disk(folder / "exported"), weights))
    _write_log_threshold(root)


def _write_log_threshold(root: Path) -> None:
    """A JumpReLU trainer's checkpoint of earlier versions, whose parameter was the logarithm."""
    weights = RandomWeights(150)
    sae = _filled(TrainingSAE.from_dict(_cfg("jumprelu")), weights)
    folder, case = _case(root, "checkpoint jumprelu, log_threshold")
    sae.save_model(folder / case.path)
    tensors = sae.state_dict()
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / case.path / "sae_weights.safetensors")
    write_case(folder, case, _expected(TrainingSAE.load_from_disk(folder / case.path), weights))


def _write_older(root: Path) -> None:
    """Flat configurations, as they were before version 6."""
    flat = {"d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "sae_lens_version": "3.20.0"}
    hook = {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny/host"}
    oldest = {
        "hook_point": "blocks.3.hook_resid_pre",
        "hook_point_head_index": None,
        "model_name": "gpt2-small",
    }
    weights = RandomWeights(200)
    plain = {"W_enc": weights.W_enc, "b_enc": weights.b_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec}
    gated = {name: getattr(weights, name) for name in ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    cases: list[tuple[str, dict[str, Any], dict[str, torch.Tensor]]] = [
        ("standard", {**flat, **oldest, "sae_lens_version": None}, plain),
        ("standard, ones for scaling_factor", flat | hook, plain | {"scaling_factor": torch.ones(D_SAE)}),
        ("standard, b_dec not on input", flat | hook | {"apply_b_dec_to_input": False}, plain),
        ("topk", flat | hook | topk, plain),
        ("gated", flat | hook | {"architecture": "gated"}, gated),
    ]
    for kind, cfg, tensors in cases:
        folder, case = _case(root, f"before 6 {kind}")
        (folder / case.path).mkdir(exist_ok=True)
        (folder / case.path / "cfg.json").write_text(json.dumps(cfg))
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, folder / case.path / "sae_weights.safetensors"
        )
        write_case(folder, case, _expected(SAE.load_from_disk(folder / case.path), weights))


def _write_refused(root: Path) -> None:
    settings: list[tuple[str, dict[str, Any], str]] = [
        ("standard", {"normalize_activations": "layer_norm"}, "each token is layer-normalised"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, "each token is brought to one norm"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "give --activation-scale"),
        ("standard", {"reshape_activations": "hook_z"}, "reads attention heads before"),
        ("abstopk", {"k": K}, "active with negative values"),
        ("matching_pursuit", {"residual_threshold": 0.1}, "chosen one after another"),
        (
            "transcoder",
            {"d_out": D_MODEL, "apply_b_dec_to_input": False},
            "predicts another activation than it reads",
        ),
        (
            "skip_transcoder",
            {"d_out": D_MODEL, "apply_b_dec_to_input": False},
            "predicts another activation than it reads",
        ),
    ]
    for kind, options, reason in settings:
        hook = {"hook_name": "blocks.3.attn.hook_z"} if "reshape_activations" in options else {}
        cfg = _cfg(kind, **options)
        cfg["metadata"] = cfg["metadata"] | hook
        label = next((str(value) for value in options.values() if isinstance(value, str)), "")
        folder, case = _case(root, f"{kind} {label}".strip(), refused=reason)
        SAE.from_dict(cfg).save_model(folder / case.path)
        write_case(folder, case)


def _write_releases(root: Path) -> None:
    """Other people's files as SAELens reads them, its look-ups on the hub replaced by the file itself."""
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

    _write_llama_scope(root)
    _write_single_files(root)


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


def _cfg(architecture: str, **settings: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "metadata": dict(_METADATA),
    } | settings


def _case(
    root: Path, kind: str, layout: str = "saelens", path: str = "", *, refused: str = ""
) -> tuple[Path, Case]:
    case = Case(
        peer=_PEER,
        layout=layout,
        kind=kind,
        path=f"sae/{path}" if path else "sae",
        refused=refused,
    )
    return case_folder(root, case), case


def _place(folder: Path, case: Case) -> Path:
    place = folder / case.path
    place.mkdir(parents=True, exist_ok=True)
    return place


def _filled(sae: Loaded, weights: RandomWeights) -> Loaded:
    """The SAE with the random weights of its parameters' names."""
    state = {name: getattr(weights, name, value) for name, value in sae.state_dict().items()}
    if "topk_threshold" in state:
        state["topk_threshold"] = torch.tensor(0.4, dtype=torch.double)
    sae.load_state_dict(state)
    return sae


def _expected(sae: Loaded, weights: RandomWeights) -> Expected:
    with torch.no_grad():
        acts = sae.encode(weights.x)
        return Expected(weights.x, acts, sae.decode(acts))


if __name__ == "__main__":
    main()
