"""The plain form in which a trained SAE is served: folded, rounded as its file will hold it, calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.architectures.trainable_sae import TrainableSae
from sae_train.evaluation.calibration import Calibration, calibrate
from steerd.errors import SteerdError
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder

_TOLERANCE = 1e-4  # of the largest activation


class ExportError(SteerdError):
    """An exported SAE that does not compute what was trained."""

    reason = "EXPORT_ERROR"


@dataclass(frozen=True, slots=True)
class ServedForm:
    """What is served, and how its threshold was found where training has none."""

    sae: SparseAutoencoder
    calibration: Calibration | None


def served_form(
    sae: TrainableSae, scale: float, *, weights_dtype: torch.dtype, rows: Callable[[], Iterable[Tensor]]
) -> ServedForm:
    """Return what will be served, in float32, weights as `weights_dtype` holds them.

    Where training chose within batches, the threshold is calibrated for those weights on `rows()`, held-out
    activations [rows, d_model], the same each time.
    """
    plain = sae.to_inference(scale).to(dtype=torch.float32)
    rounded = dataclasses.replace(
        plain, W_enc=plain.W_enc.to(weights_dtype).float(), W_dec=plain.W_dec.to(weights_dtype).float()
    )
    if sae.calibrated_l0 is None:
        return ServedForm(rounded, None)
    found = calibrate(rounded, rows, k=sae.calibrated_l0)
    activation = JumpReLU(torch.full((rounded.d_sae,), found.threshold))
    return ServedForm(dataclasses.replace(rounded, activation=activation), found)


def check_reload(
    reloaded: SparseAutoencoder,
    served: SparseAutoencoder,
    sae: TrainableSae,
    *,
    scale: float,
    sample: Tensor,
) -> None:
    """Compare activations on held-out rows [rows, d_model]; raises ExportError when they differ.

    The reloaded file must compute what was measured, and the folded weights, before rounding, what the
    trained parameters compute on scaled activations.
    """
    _compare("the reloaded file", reloaded.encode(sample), served.encode(sample))
    folded = sae.to_inference(scale).encode(sample.double()) * scale
    _compare("the folded weights", folded, sae.reference_acts(sample.double() * scale).cpu())


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= _TOLERANCE * largest:
        raise ExportError(
            f"{what}: activations on held-out tokens differ by {difference:.3g} "
            f"where at most {_TOLERANCE * largest:.3g} is allowed"
        )
