"""Llama Scope (arXiv 2410.20526): `hyperparams.json` and `checkpoints/final.safetensors`.

Its own loader (lm_saes, 2024) first brings the weights to raw activations, then decoder rows to norm 1, and
compares what results with the threshold as written; so does this reader. Loaders that skip a step move the
threshold.
"""

from __future__ import annotations

import math
from pathlib import Path

from sae_train.formats.foreign_sae import ForeignSae, full_threshold, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import check_widths
from steerd.errors import SaeFileError
from steerd.sae.json_file import JsonObject, field, positive_field

_CONFIG, _WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _read(source: Source, options: ImportOptions) -> ForeignSae:
    config, where = source.json(_CONFIG), source.folder / _CONFIG
    _refuse_other_forwards(config, where)
    d_model, d_sae = (positive_field(config, key, str(where)) for key in ("d_model", "d_sae"))
    check_widths(where, d_model, d_sae)
    scale_in, scale_out = _scales(config, d_model, where)
    stored = source.weights(_WEIGHTS)
    stored.expect(_TENSORS)
    threshold = field(config, "jump_relu_threshold", float, str(where))
    if not threshold >= 0:
        raise SaeFileError(f"{where}: jump_relu_threshold must be at least 0, found {threshold:g}")
    return ForeignSae(
        layout=LAYOUT.name,
        kind="JumpReLU",
        model_name=model_name(
            "meta-llama/Llama-3.1-8B" if "Llama3_1-8B" in source.place else None, options, where
        ),
        hook_point=resolve_hook_point(
            field(config, "hook_point_in", str, str(where)), options.hook_point, where
        ),
        weights=plain_weights(
            stored.take("encoder.weight", (d_sae, d_model)).T,
            stored.take("encoder.bias", (d_sae,)) / scale_in,
            stored.take("decoder.weight", (d_model, d_sae)).T * (scale_in / scale_out),
            stored.take("decoder.bias", (d_model,)) / scale_out,
            full_threshold(threshold, d_sae),
        ),
        b_dec_on_input=field(config, "apply_decoder_bias_to_pre_encoder", bool, str(where)),
        ranked_by_decoder_norm=field(config, "sparsity_include_decoder_norm", bool, str(where)),
        turned=(
            "encoder.weight and decoder.weight transposed",
            f"data set's activation scales {scale_in:.9g} (in) and {scale_out:.9g} (out) folded",
        ),
        about={"prepend_bos": True},
    )


def _refuse_other_forwards(config: JsonObject, where: Path) -> None:
    for key, expected in (
        ("act_fn", "jumprelu"),
        ("norm_activation", "dataset-wise"),
        ("use_decoder_bias", True),
        ("use_glu_encoder", False),
    ):
        if config.get(key) != expected:
            raise SaeFileError(f"{where}: {key} must be {expected!r}, found {config.get(key)!r}")
    if config.get("hook_point_out") != config.get("hook_point_in"):
        raise SaeFileError(f"{where}: is a transcoder: predicts {config.get('hook_point_out')!r}")


def _scales(config: JsonObject, d_model: int, where: Path) -> tuple[float, float]:
    norms = field(config, "dataset_average_activation_norm", dict, str(where))
    place = f"{where}: dataset_average_activation_norm"
    scales = []
    for key in ("in", "out"):
        norm = field(norms, key, float, place)
        if not norm > 0:
            raise SaeFileError(f"{place}: {key} must be above 0, found {norm:g}")
        scales.append(math.sqrt(d_model) / norm)
    return scales[0], scales[1]


LAYOUT = Layout(
    name="llama_scope",
    marks=f"{_CONFIG} and {_WEIGHTS}",
    recognises=lambda source: source.has(_CONFIG) and source.has(_WEIGHTS),
    read=_read,
)
