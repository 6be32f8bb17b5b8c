"""dictionary_learning: `ae.pt`, a state dict, and `config.json`, which names the class that reads it.

The class decides everything: whether b_dec is taken from the input, which matrices are transposed, whether
`threshold` is the serving threshold (BatchTopK, Matryoshka) or a by-product (TopK). The trainer's activation
norm is in the biases and thresholds already.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sae_train.formats.foreign_sae import ForeignSae, full_threshold, gated_as_jumprelu, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, checked_k, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import StoredTensors, check_widths
from steerd.errors import SaeFileError
from steerd.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.json_file import JsonObject, field, positive_field

_CONFIG, _WEIGHTS = "config.json", "ae.pt"

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_OURS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")

_NO_B_DEC = ("AutoEncoderNew", "JumpReluAutoEncoder")


def _read(source: Source, options: ImportOptions) -> ForeignSae:
    config, where = source.json(_CONFIG), source.folder / _CONFIG
    trainer = field(config, "trainer", dict, str(where))
    kind = field(trainer, "dict_class", str, f"{where}: trainer")
    if kind not in _READERS:
        raise SaeFileError(f"{where}: dict_class must be one of {sorted(_READERS)}, found {kind!r}")
    stored = source.weights(_WEIGHTS)
    if {"ae", "optimizer"} <= set(stored.values):
        raise SaeFileError(f"{stored.path}: is a backup of unfinished training, whose biases are not scaled")
    weights = _READERS[kind](stored)
    if kind == "AutoEncoderTopK":
        weights = replace(
            weights, activation=TopK(checked_k(_k(stored, trainer, where), weights.d_sae, where))
        )
    for key, width in (("activation_dim", weights.d_model), ("dict_size", weights.d_sae)):
        if trainer.get(key, width) != width:
            raise SaeFileError(f"{where}: {key} is {trainer[key]!r}, but {stored.path.name} has {width}")
    return ForeignSae(
        layout=LAYOUT.name,
        kind=kind,
        model_name=model_name(trainer.get("lm_name"), options, where),
        hook_point=resolve_hook_point(_hook(config, where), options.hook_point, where),
        weights=weights,
        b_dec_on_input=kind not in _NO_B_DEC,
        turned=_turned(kind),
        about={key: trainer[key] for key in ("trainer_class", "steps", "lr", "seed") if key in trainer},
    )


def _hook(config: JsonObject, where: Path) -> str | None:
    """Only the names that its own examples give are certain; `layer` alone does not say which output."""
    trainer, buffer = config["trainer"], field({"buffer": {}} | config, "buffer", dict, str(where))
    direction = buffer.get("io", "out")
    if direction not in ("in", "out"):
        raise SaeFileError(
            f"{where}: buffer.io is {direction!r}: a transcoder reads one thing, predicts another"
        )
    match = re.fullmatch(r"resid_post_layer_(\d+)", str(trainer.get("submodule_name")))
    if match is None or direction != "out":
        return None
    return f"blocks.{match[1]}.hook_resid_post"


def _turned(kind: str) -> tuple[str, ...]:
    done = ("encoder.weight and decoder.weight transposed",) if _READERS[kind] not in _IN_OUR_NAMES else ()
    return (*done, "gate and magnitude joined into one threshold") if kind == "GatedAutoEncoder" else done


def _auto_encoder(stored: StoredTensors) -> SparseAutoencoder:
    stored.expect((*_LINEAR, "bias"))
    return _linear(stored, "bias", ReLU())


def _auto_encoder_new(stored: StoredTensors) -> SparseAutoencoder:
    stored.expect((*_LINEAR, "decoder.bias"))
    return _linear(stored, "decoder.bias", ReLU())


def _gated(stored: StoredTensors) -> SparseAutoencoder:
    names = ("r_mag", "gate_bias", "mag_bias")
    stored.expect(("encoder.weight", "decoder.weight", "decoder_bias", *names))
    W_enc, W_dec = _matrices(stored)
    d_sae, d_model = W_dec.shape
    r_mag, b_gate, b_mag = (stored.take(name, (d_sae,)) for name in names)
    b_dec = stored.take("decoder_bias", (d_model,))
    return gated_as_jumprelu(W_enc, W_dec, b_dec, r_mag=r_mag, b_gate=b_gate, b_mag=b_mag)


def _top_k(stored: StoredTensors) -> SparseAutoencoder:
    """Without its k, which `_k` finds. Its `threshold` is for another way to encode than its own."""
    stored.expect((*_LINEAR, "b_dec"), optional=("k", "threshold"))
    return _linear(stored, "b_dec", ReLU())


def _k(stored: StoredTensors, trainer: JsonObject, where: Path) -> int:
    """The weights file's, and where older ones have none the trainer's."""
    k = stored.whole_number("k") if "k" in stored.names else positive_field(trainer, "k", f"{where}: trainer")
    if trainer.get("k", k) != k:
        raise SaeFileError(f"{where}: k is {trainer['k']!r}, but {stored.path.name} has {k}")
    return k


def _batch_top_k(stored: StoredTensors) -> SparseAutoencoder:
    stored.expect((*_LINEAR, "b_dec"), optional=("k", "threshold"))
    return _linear(stored, "b_dec", _batch_threshold(stored, stored.matrix_shape("encoder.weight")[0]))


def _matryoshka(stored: StoredTensors) -> SparseAutoencoder:
    stored.expect(_OURS[:4], optional=("k", "threshold", "group_sizes"))
    return _in_our_names(stored, _batch_threshold(stored, stored.matrix_shape("W_enc")[1]))


def _jump_relu(stored: StoredTensors) -> SparseAutoencoder:
    stored.expect(_OURS)
    d_sae = stored.matrix_shape("W_enc")[1]
    return _in_our_names(stored, JumpReLU(stored.take("threshold", (d_sae,))))


def _batch_threshold(stored: StoredTensors, d_sae: int) -> JumpReLU:
    if "threshold" not in stored.names:
        raise SaeFileError(
            f"{stored.path}: tensor threshold is missing: without it a feature's activation depends on the "
            "whole batch"
        )
    threshold = float(stored.take("threshold", ()))
    if threshold < 0:
        raise SaeFileError(
            f"{stored.path}: tensor threshold: must be at least 0, found {threshold:g}: training never set it"
        )
    return full_threshold(threshold, d_sae)


def _linear(stored: StoredTensors, b_dec: str, activation: ActivationFunction) -> SparseAutoencoder:
    W_enc, W_dec = _matrices(stored)
    d_sae, d_model = W_dec.shape
    return plain_weights(
        W_enc,
        stored.take("encoder.bias", (d_sae,)),
        W_dec,
        stored.take(b_dec, (d_model,)),
        activation,
    )


def _matrices(stored: StoredTensors) -> tuple[Tensor, Tensor]:
    """W_enc [d_model, d_sae] and W_dec [d_sae, d_model] of two torch.nn.Linear."""
    d_sae, d_model = stored.matrix_shape("encoder.weight")
    check_widths(stored.path, d_model, d_sae)
    W_enc = stored.take("encoder.weight", (d_sae, d_model)).T
    return W_enc, stored.take("decoder.weight", (d_model, d_sae)).T


def _in_our_names(stored: StoredTensors, activation: ActivationFunction) -> SparseAutoencoder:
    d_model, d_sae = stored.matrix_shape("W_enc")
    check_widths(stored.path, d_model, d_sae)
    return plain_weights(
        stored.take("W_enc", (d_model, d_sae)),
        stored.take("b_enc", (d_sae,)),
        stored.take("W_dec", (d_sae, d_model)),
        stored.take("b_dec", (d_model,)),
        activation,
    )


_READERS: dict[str, Callable[[StoredTensors], SparseAutoencoder]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}
_IN_OUR_NAMES = (_matryoshka, _jump_relu)

LAYOUT = Layout(
    name="dictionary_learning",
    marks=f"{_CONFIG} and {_WEIGHTS}",
    recognises=lambda source: source.has(_CONFIG) and source.has(_WEIGHTS),
    read=_read,
)
