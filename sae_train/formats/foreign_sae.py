"""Someone's SAE in our names and orientation, and its conventions turned into the plain form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.folding import fold_activation_scale, fold_b_dec_into_encoder, fold_decoder_norm
from steerd.sae.json_file import JsonObject

# Norms that spread less than this are one norm and the rounding of a normalisation in bfloat16.
_SAME_NORM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignSae:
    """What a layout's files hold, before any convention of theirs is folded.

    The encoder of `weights`, in float64, reads `input_scale * x`, less b_dec where `b_dec_on_input`, and the
    decoder's output is divided by `input_scale`. With `ranked_by_decoder_norm` the activation function sees
    pre-activations times decoder norms, and its result is the activation that the layout's own code reports.
    `kind` is the layout's word for what it is, `turned` what its reader has done already, `about` what else
    its files say.
    """

    layout: str
    kind: str
    model_name: str
    hook_point: HookPoint
    weights: SparseAutoencoder
    b_dec_on_input: bool = False
    input_scale: float = 1.0
    ranked_by_decoder_norm: bool = False
    turned: tuple[str, ...] = ()
    about: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """The plain form in float64, and what was done for it, a sentence each.

    `activation_units` says how its activations relate to those of the layout's own code.
    """

    sae: SparseAutoencoder
    steps: tuple[str, ...]
    activation_units: str


def fold(foreign: ForeignSae, *, keep_decoder_norms: bool = False) -> Folded:
    """The plain form: same features, same reconstructions, decoder rows of norm 1 where that changes nothing.

    A feature's activation then counts residual-stream units: the layout's own value times its decoder norm.
    `keep_decoder_norms` leaves the layout's values.
    """
    sae, steps = foreign.weights, list(foreign.turned)
    if foreign.b_dec_on_input:
        sae = fold_b_dec_into_encoder(sae)
        steps.append("b_dec, taken from the input, folded into b_enc")
    if foreign.input_scale != 1.0:
        sae = fold_activation_scale(sae, foreign.input_scale)
        steps.append(f"activation scale {foreign.input_scale:.9g} folded into the weights")
    if foreign.ranked_by_decoder_norm:
        sae = _ranked(sae, foreign.input_scale)
        steps.append("decoder norms, part of the choice of features, folded into the encoder")
    if keep_decoder_norms:
        return Folded(sae, tuple(steps), "as the layout's own code gives them; decoder norms kept")
    return _with_unit_decoder(sae, steps)


def plain_weights(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, activation: ActivationFunction
) -> SparseAutoencoder:
    """The weights of a ForeignSae, contiguous whatever was transposed to get them."""
    return SparseAutoencoder(
        W_enc=W_enc.contiguous(),
        b_enc=b_enc,
        W_dec=W_dec.contiguous(),
        b_dec=b_dec,
        activation=activation,
    )


def gated_as_jumprelu(
    W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, *, r_mag: Tensor, b_gate: Tensor, b_mag: Tensor
) -> SparseAutoencoder:
    """A gated SAE (arXiv 2404.16014) as the JumpReLU that it is.

    With p = x @ W_enc, its gate is open where p + b_gate > 0 and its magnitude is exp(r_mag) * p + b_mag:
    the gate is open exactly where the magnitude is above b_mag - exp(r_mag) * b_gate.
    """
    gain = r_mag.exp()  # [d_sae]
    return plain_weights(W_enc * gain, b_mag, W_dec, b_dec, JumpReLU(b_mag - gain * b_gate))


def _ranked(sae: SparseAutoencoder, input_scale: float) -> SparseAutoencoder:
    """The fold of a scale divides the norms by it, and with them what a threshold is compared with."""
    activation = sae.activation
    if isinstance(activation, JumpReLU):
        activation = JumpReLU(activation.threshold / input_scale)
    return replace(fold_decoder_norm(replace(sae, activation=ReLU())), activation=activation)


def _with_unit_decoder(sae: SparseAutoencoder, steps: list[str]) -> Folded:
    norms = sae.W_dec.norm(dim=1)  # [d_sae]
    low, high = float(norms.min()), float(norms.max())
    if max(abs(low - 1), abs(high - 1)) < 1e-6:
        return Folded(sae, tuple(steps), "as the layout's own code gives them; its decoder norms are 1")
    span = f"decoder norms ({low:.6g} to {high:.6g})"
    if not isinstance(sae.activation, TopK):
        steps.append(f"{span} folded into the encoder")
        return Folded(fold_decoder_norm(sae), tuple(steps), "the layout's own times its decoder norms")
    if high - low > _SAME_NORM * high:
        steps.append(f"{span} kept: a TopK without them would choose other features")
        return Folded(sae, tuple(steps), "as the layout's own code gives them; decoder norms kept")
    # One factor for all features leaves their order alone.
    factor = float(norms.mean())
    steps.append(f"{span}, one for all features, folded into the encoder as {factor:.9g}")
    return Folded(_rescaled(sae, factor), tuple(steps), f"the layout's own times {factor:.9g}")


def _rescaled(sae: SparseAutoencoder, factor: float) -> SparseAutoencoder:
    return replace(sae, W_enc=sae.W_enc * factor, b_enc=sae.b_enc * factor, W_dec=sae.W_dec / factor)


def full_threshold(value: float, d_sae: int) -> JumpReLU:
    """One threshold for all features."""
    return JumpReLU(torch.full((d_sae,), value, dtype=torch.float64))
