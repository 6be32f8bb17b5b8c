"""SAELens folders: version 6, the flat configurations before it, and a trainer's checkpoints.

encode: activation((scale * x - b_dec * apply_b_dec_to_input) @ W_enc + b_enc); a BatchTopK's checkpoint is
served as the JumpReLU that SAELens itself exports.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sae_train.formats.foreign_sae import ForeignSae, full_threshold, gated_as_jumprelu, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, checked_k, model_name
from sae_train.formats.saelens_config import SaelensConfig, read_saelens_config
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import StoredTensors
from steerd.errors import SaeFileError
from steerd.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.json_file import field

_CONFIG, _WEIGHTS, _OURS = "cfg.json", "sae_weights.safetensors", "steerd.json"
_SCALER = "activation_scaler.json"
_PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")


def _read(source: Source, options: ImportOptions) -> ForeignSae:
    if source.has(_OURS):
        raise SaeFileError(f"{source.folder}: holds {_OURS}: it is an SAE folder that steerd loads as it is")
    config = read_saelens_config(source.json(_CONFIG), source.folder / _CONFIG)
    stored = source.weights(_WEIGHTS)
    scale = _activation_scale(source, config, options)
    return ForeignSae(
        layout=LAYOUT.name,
        kind=config.architecture + (" (before version 6)" if config.legacy else ""),
        model_name=model_name(config.model_name, options, config.path),
        hook_point=resolve_hook_point(config.hook_name, options.hook_point, config.path),
        weights=_weights(stored, config),
        b_dec_on_input=config.apply_b_dec_to_input,
        input_scale=scale,
        ranked_by_decoder_norm=config.rescale_acts_by_decoder_norm,
        turned=_turned(stored, config),
        about=config.about,
    )


def _weights(stored: StoredTensors, config: SaelensConfig) -> SparseAutoencoder:
    optional = ("scaling_factor",) if config.legacy else ()
    d_model, d_sae = config.d_model, config.d_sae
    if config.architecture == "gated":
        stored.expect(_GATED, optional)
        r_mag, b_gate, b_mag = (stored.take(name, (d_sae,)) for name in ("r_mag", "b_gate", "b_mag"))
        W_enc, b_dec = stored.take("W_enc", (d_model, d_sae)), stored.take("b_dec", (d_model,))
        return gated_as_jumprelu(
            W_enc, _decoder(stored, config), b_dec, r_mag=r_mag, b_gate=b_gate, b_mag=b_mag
        )
    threshold = _threshold_name(stored, config)
    stored.expect((*_PLAIN, threshold) if threshold else _PLAIN, optional)
    return plain_weights(
        stored.take("W_enc", (d_model, d_sae)),
        stored.take("b_enc", (d_sae,)),
        _decoder(stored, config),
        stored.take("b_dec", (d_model,)),
        _activation(stored, config, threshold),
    )


def _threshold_name(stored: StoredTensors, config: SaelensConfig) -> str | None:
    if config.architecture == "jumprelu":
        return "log_threshold" if "log_threshold" in stored.names else "threshold"
    return "topk_threshold" if config.is_batch_topk else None


def _activation(stored: StoredTensors, config: SaelensConfig, threshold: str | None) -> ActivationFunction:
    if config.architecture == "topk":
        assert config.k is not None, "read_saelens_config asks a topk file for its k"
        return TopK(checked_k(config.k, config.d_sae, config.path))
    if threshold is None:
        return ReLU()
    if threshold == "topk_threshold":
        return full_threshold(_batch_threshold(stored), config.d_sae)
    values = stored.take(threshold, (config.d_sae,))
    return JumpReLU(values.exp() if threshold == "log_threshold" else values)


def _batch_threshold(stored: StoredTensors) -> float:
    threshold = float(stored.take("topk_threshold", ()))
    if threshold <= 0:
        raise SaeFileError(
            f"{stored.path}: tensor topk_threshold: must be above 0, found {threshold:g}: never trained"
        )
    return threshold


def _decoder(stored: StoredTensors, config: SaelensConfig) -> Tensor:
    """W_dec, times the old finetuning factors, which multiplied activations before decoding only."""
    W_dec = stored.take("W_dec", (config.d_sae, config.d_model))
    factors = _finetuning_factors(stored, config)
    return W_dec if factors is None else W_dec * factors.unsqueeze(1)


def _finetuning_factors(stored: StoredTensors, config: SaelensConfig) -> Tensor | None:
    """None where the file has none, or ones only, which earlier versions wrote for nothing."""
    if "scaling_factor" not in stored.names:
        return None
    factors = stored.take("scaling_factor", (config.d_sae,))
    if torch.allclose(factors, torch.ones_like(factors)):
        return None
    if not config.finetuning_scaling_factor:
        raise SaeFileError(
            f"{stored.path}: tensor scaling_factor: expected ones, as finetuning_scaling_factor is false, "
            f"found {factors.min():.6g} to {factors.max():.6g}"
        )
    return factors


def _turned(stored: StoredTensors, config: SaelensConfig) -> tuple[str, ...]:
    done = []
    if config.architecture == "gated":
        done.append("gate and magnitude joined into one threshold")
    if "log_threshold" in stored.names:
        done.append("log_threshold exponentiated")
    if config.is_batch_topk:
        done.append("topk_threshold given to every feature")
    if _finetuning_factors(stored, config) is not None:
        done.append("scaling_factor folded into the decoder")
    return tuple(done)


def _activation_scale(source: Source, config: SaelensConfig, options: ImportOptions) -> float:
    """What the encoder's input is multiplied by: from a checkpoint's own file, or the user."""
    saved = source.json(_SCALER).get("scaling_factor") if source.has(_SCALER) else None
    if config.normalize_activations == "none":
        if saved is not None or options.activation_scale is not None:
            raise SaeFileError(
                f"{config.path}: normalize_activations is 'none', so there is no activation scale to fold; "
                f"found {saved or options.activation_scale}"
            )
        return 1.0
    if saved is None and options.activation_scale is None:
        raise SaeFileError(
            f"{config.path}: normalize_activations is {config.normalize_activations!r} and no file holds the "
            "scale; give --activation-scale (sqrt(d_in) / mean activation norm)"
        )
    scale = (
        field({"scaling_factor": saved}, "scaling_factor", float, str(source.folder / _SCALER))
        if (saved is not None)
        else options.activation_scale
    )
    assert scale is not None
    return _checked_scale(scale, options, config.path)


def _checked_scale(scale: float, options: ImportOptions, where: Path) -> float:
    if options.activation_scale not in (None, scale):
        raise SaeFileError(
            f"{where}: {_SCALER} says {scale:g}, --activation-scale {options.activation_scale:g}"
        )
    if not (scale > 0 and math.isfinite(scale)):
        raise SaeFileError(f"{where}: the activation scale must be above 0, found {scale:g}")
    return scale


LAYOUT = Layout(
    name="saelens",
    marks=f"{_CONFIG} and {_WEIGHTS}",
    recognises=lambda source: source.has(_CONFIG) and source.has(_WEIGHTS),
    read=_read,
    uses=frozenset({"activation_scale"}),
)
