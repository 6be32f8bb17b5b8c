"""Random SAEs, the forwards of all conventions written out in float64, and ways to save tensors.

Nothing here uses the importer or the plain form: the forwards are the oracles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D_MODEL, D_SAE, K = 12, 40, 5

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Written:
    """What to import and how, and what the layout's code gives for rows: activations, reconstructions.

    `told` are the importer's options.
    """

    path: Path
    forward: Forward
    told: dict[str, Any] = field(default_factory=dict)


class Weights:
    """Random parameters in float32, decoder rows of several lengths."""

    def __init__(self, seed: int = 0, d_sae: int = D_SAE) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.W_dec = normal(d_sae, D_MODEL)
        self.W_enc = normal(D_MODEL, d_sae) / D_MODEL**0.5
        self.b_enc, self.b_dec = 0.2 * normal(d_sae) - 0.3, 0.5 * normal(D_MODEL)
        self.threshold = 0.3 * normal(d_sae).abs()
        self.r_mag, self.b_gate, self.b_mag = (
            0.4 * normal(d_sae),
            0.3 * normal(d_sae) - 0.4,
            0.3 * normal(d_sae),
        )

    def linear(self) -> dict[str, Tensor]:
        """As two torch.nn.Linear store them."""
        return {"encoder.weight": self.W_enc.T, "encoder.bias": self.b_enc, "decoder.weight": self.W_dec.T}

    def ours(self, *more: str) -> dict[str, Tensor]:
        """In SAELens's names and orientation."""
        return {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", *more)}

    def gated(self) -> dict[str, Tensor]:
        """A gated SAE of SAELens."""
        names = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
        return {name: getattr(self, name) for name in names}


def rows(count: int = 64) -> Tensor:
    return torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def topk(pre_acts: Tensor, k: int = K) -> Tensor:
    """The k largest of each row, the rest zero, by sorting."""
    order = pre_acts.argsort(dim=-1, descending=True)[:, :k]
    return torch.zeros_like(pre_acts).scatter(1, order, pre_acts.gather(1, order).relu())


def jump(pre_acts: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where(pre_acts > threshold, pre_acts, 0.0).relu()


def forward(
    w: Weights, activate: Callable[[Tensor], Tensor], *, subtract: bool, scale: float = 1.0
) -> Forward:
    """Encode scale * x, less b_dec where `subtract`; decode, and undo the scale."""
    W_enc, b_enc, W_dec, b_dec = (t.double() for t in (w.W_enc, w.b_enc, w.W_dec, w.b_dec))

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = activate((scale * x - (b_dec if subtract else 0.0)) @ W_enc + b_enc)
        return acts, (acts @ W_dec + b_dec) / scale

    return run


def gated_forward(w: Weights, *, subtract: bool) -> Forward:
    W_enc, W_dec, b_dec = w.W_enc.double(), w.W_dec.double(), w.b_dec.double()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        shared = (x - (b_dec if subtract else 0.0)) @ W_enc
        gate = (shared + w.b_gate.double() > 0).double()
        acts = gate * (shared * w.r_mag.double().exp() + w.b_mag.double()).relu()
        return acts, acts @ W_dec + b_dec

    return run


def save_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def save_pt(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.contiguous() if isinstance(v, Tensor) else v for k, v in state.items()}, path)


def save_json(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
