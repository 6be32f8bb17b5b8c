"""SAEs and rows whose measurements are known beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.activations.held_out import HeldOutRows
from sae_train.corpus.token_blocks import TokenBlock
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder


def sae_of(W_enc: Tensor | list[list[float]], W_dec: Tensor | list[list[float]]) -> SparseAutoencoder:
    """A ReLU SAE without biases."""
    encoder, decoder = torch.as_tensor(W_enc), torch.as_tensor(W_dec)
    return SparseAutoencoder(encoder, torch.zeros(len(decoder)), decoder, torch.zeros(len(encoder)), ReLU())


def perfect_sae(d_model: int, *, shrunk_to: float = 1.0) -> SparseAutoencoder:
    """Rebuilds every row, times `shrunk_to`: one feature for each dimension and sign."""
    eye = torch.eye(d_model)
    return sae_of(torch.cat([eye, -eye], dim=1), shrunk_to * torch.cat([eye, -eye]))


def rows_of(resid: Tensor | list[list[float]], special_ids: dict[int, int] | None = None) -> HeldOutRows:
    """Rows of ordinary tokens (id 100), but for special tokens given as place -> id."""
    resid = torch.as_tensor(resid)
    token_ids = torch.full((len(resid),), 100)
    special = torch.zeros(len(resid), dtype=torch.bool)
    for place, token_id in (special_ids or {}).items():
        token_ids[place], special[place] = token_id, True
    return HeldOutRows(resid=resid, token_ids=token_ids, special=special)


def cut(rows: HeldOutRows, size: int) -> list[HeldOutRows]:
    """The same rows in batches of `size`."""
    columns = (torch.split(column, size) for column in (rows.resid, rows.token_ids, rows.special))
    return [
        HeldOutRows(resid=resid, token_ids=ids, special=special)
        for resid, ids, special in zip(*columns, strict=True)
    ]


def text_blocks() -> list[TokenBlock]:
    """Three texts of unlike length for a host with one token a byte; the first token is not kept."""
    texts = ["a longer text to read", "short", "middling text"]
    return [TokenBlock(list(text.encode()), [False] + [True] * (len(text) - 1), source="") for text in texts]
