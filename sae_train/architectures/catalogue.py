"""Every architecture by its name, its settings and how they become an SAE."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSae, BatchTopKSettings
from sae_train.architectures.gated import GatedSae, GatedSettings
from sae_train.architectures.jumprelu import JumpReLUSae, JumpReLUSettings
from sae_train.architectures.matryoshka import MatryoshkaSae, MatryoshkaSettings
from sae_train.architectures.standard import StandardSae, StandardSettings
from sae_train.architectures.topk import TopKSae, TopKSettings
from sae_train.architectures.trainable_sae import TrainableSae
from steerd.errors import ConfigError

Settings = (
    StandardSettings
    | GatedSettings
    | TopKSettings
    | BatchTopKSettings
    | MatryoshkaSettings
    | JumpReLUSettings
)

SETTINGS: dict[str, type[Settings]] = {
    "standard": StandardSettings,
    "gated": GatedSettings,
    "topk": TopKSettings,
    "batch_topk": BatchTopKSettings,
    "matryoshka_batch_topk": MatryoshkaSettings,
    "jumprelu": JumpReLUSettings,
}


def build_sae(
    settings: Settings, d_model: int, d_sae: int, *, b_dec: Tensor, generator: torch.Generator
) -> TrainableSae:
    """Return a fresh SAE of the settings' architecture on b_dec's device; `generator` decides its weights."""
    match settings:
        case StandardSettings():
            return StandardSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        case GatedSettings():
            return GatedSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        case TopKSettings():
            return TopKSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        case MatryoshkaSettings():  # before what it is a kind of
            return MatryoshkaSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        case BatchTopKSettings():
            return BatchTopKSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        case JumpReLUSettings():
            return JumpReLUSae(settings, d_model, d_sae, b_dec=b_dec, generator=generator)


def check_settings(settings: Settings, d_sae: int) -> None:
    """Raise ConfigError, naming the key, the bound and the value, when an SAE of d_sae cannot have these."""
    match settings:
        case StandardSettings() | GatedSettings():
            _at_least("l1_coefficient", settings.l1_coefficient, 0.0)
        case TopKSettings() | BatchTopKSettings():
            _check_k(settings.k, d_sae)
            _at_least("auxk_alpha", settings.auxk_alpha, 0.0)
            _above("encoder_norm", settings.encoder_norm, 0.0)
        case JumpReLUSettings():
            _check_jumprelu(settings, d_sae)
    if isinstance(settings, MatryoshkaSettings):
        _check_widths(settings.widths, d_sae)


def _check_k(k: int, d_sae: int) -> None:
    if k < 1:
        raise ConfigError(f"k: must be at least 1, found {k}")
    if k >= d_sae:
        raise ConfigError(f"k: must be below d_sae = {d_sae}, found {k}")


def _check_widths(widths: tuple[int, ...], d_sae: int) -> None:
    if not widths:
        raise ConfigError("widths: at least one width is needed, found none")
    for width, previous in zip(widths, (0, *widths), strict=False):
        if width <= previous:
            raise ConfigError(f"widths: must be above 0 and ascending, found {width} after {previous}")
    if widths[-1] > d_sae:
        raise ConfigError(f"widths: must be at most d_sae = {d_sae}, found {widths[-1]}")


def _check_jumprelu(settings: JumpReLUSettings, d_sae: int) -> None:
    _above("target_l0", settings.target_l0, 0.0)
    if settings.target_l0 >= d_sae:
        raise ConfigError(f"target_l0: must be below d_sae = {d_sae}, found {settings.target_l0:g}")
    _at_least("l0_coefficient", settings.l0_coefficient, 0.0)
    _above("bandwidth", settings.bandwidth, 0.0)
    _above("encoder_norm", settings.encoder_norm, 0.0)


def _at_least(key: str, value: float, bound: float) -> None:
    if not bound <= value < float("inf"):
        raise ConfigError(f"{key}: must be a finite number of at least {bound:g}, found {value}")


def _above(key: str, value: float, bound: float) -> None:
    if not bound < value < float("inf"):
        raise ConfigError(f"{key}: must be a finite number above {bound:g}, found {value}")
