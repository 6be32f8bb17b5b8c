"""The way to the served form that all architectures share, and the plain formula it is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.architectures.trainable_sae import TrainableSae
from steerd.sae.activation_function import ActivationFunction
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.folding import fold_activation_scale, fold_b_dec_into_encoder, fold_decoder_norm


def plain_form(sae: TrainableSae, activation: ActivationFunction, scale: float) -> SparseAutoencoder:
    """Return the served form of activation((scale * x - b_dec) @ W_enc + b_enc) and its decoder."""
    weights = SparseAutoencoder(
        W_enc=sae.W_enc.detach().double(),
        b_enc=sae.b_enc.detach().double(),
        W_dec=sae.W_dec.detach().double(),
        b_dec=sae.b_dec.detach().double(),
        activation=activation.to(dtype=torch.float64),
    )
    return folded(weights, scale)


def folded(sae: SparseAutoencoder, scale: float) -> SparseAutoencoder:
    """Return, on the CPU, the plain form of an SAE that reads scale * x - b_dec."""
    scaled = fold_activation_scale(fold_b_dec_into_encoder(sae.to("cpu")), scale)
    # A TopK SAE's rows have one norm, 1 / scale, so that its choice is the same with the norm and without.
    return fold_decoder_norm(scaled, ranked_by_norm=True)


def exact_pre_acts(sae: TrainableSae, x: Tensor) -> Tensor:
    """Return (x - b_dec) @ W_enc + b_enc in float64, without any fold: [rows, d_sae]."""
    return (x.double() - sae.b_dec.double()) @ sae.W_enc.double() + sae.b_enc.double()
