"""Cases of SAELens: what it saves, its trainers' checkpoints, and its older configurations.

`python -m benchmarks.format_peers.saelens_cases FOLDER`, in an environment that has sae-lens.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def _cfg(architecture: str, **settings: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "metadata": dict(_METADATA),
    } | settings


def _case(root: Path, kind: str, *, refused: str = "") -> tuple[Path, Case]:
    case = Case(peer=_PEER, layout="saelens", kind=kind, path="sae", refused=refused)
    return case_folder(root, case), case


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
