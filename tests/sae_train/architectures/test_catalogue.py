"""Every architecture by name, and what its settings are held to."""

from __future__ import annotations

import pytest
import torch

from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import SETTINGS, Settings, build_sae, check_settings
from sae_train.architectures.gated import GatedSettings
from sae_train.architectures.jumprelu import JumpReLUSettings
from sae_train.architectures.matryoshka import MatryoshkaSettings
from sae_train.architectures.standard import StandardSettings
from sae_train.architectures.topk import TopKSettings
from steerd.errors import ConfigError

GOOD: dict[str, Settings] = {
    "standard": StandardSettings(),
    "gated": GatedSettings(),
    "topk": TopKSettings(k=4),
    "batch_topk": BatchTopKSettings(k=47),
    "matryoshka_batch_topk": MatryoshkaSettings(k=4, widths=(8, 16, 48)),
    "jumprelu": JumpReLUSettings(target_l0=4),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_architecture_is_built_on_the_b_dec_it_is_given(name: str) -> None:
    b_dec = torch.arange(12.0)
    check_settings(GOOD[name], 48)

    sae = build_sae(GOOD[name], 12, 48, b_dec=b_dec, generator=torch.Generator().manual_seed(0))
    again = build_sae(GOOD[name], 12, 48, b_dec=b_dec, generator=torch.Generator().manual_seed(0))

    assert isinstance(GOOD[name], SETTINGS[name])
    assert (sae.d_model, sae.d_sae) == (12, 48)
    assert torch.equal(sae.b_dec, b_dec)
    assert sae.b_dec.data_ptr() != b_dec.data_ptr()
    assert torch.equal(sae.W_enc, again.W_enc)
    assert type(sae).__name__.removesuffix("Sae") == type(GOOD[name]).__name__.removesuffix("Settings")


@pytest.mark.parametrize(
    ("settings", "encoder_norm", "decoder_norm"),
    [
        (StandardSettings(), 0.1, 0.1),
        (GatedSettings(), 1.0, 1.0),
        (TopKSettings(k=4), 0.1, 1.0),
        (TopKSettings(k=4, encoder_norm=0.7), 0.7, 1.0),
        (BatchTopKSettings(k=4), 1.0, 1.0),
        (BatchTopKSettings(k=4, encoder_norm=0.7), 0.7, 1.0),
        (MatryoshkaSettings(k=4, widths=(8,)), 0.1, 1.0),
        (JumpReLUSettings(target_l0=4), 1.0, 1.0),
        (JumpReLUSettings(target_l0=4, encoder_norm=0.7), 0.7, 1.0),
    ],
)
def test_encoder_columns_start_along_decoder_rows(
    settings: Settings, encoder_norm: float, decoder_norm: float
) -> None:
    sae = build_sae(settings, 12, 48, b_dec=torch.zeros(12), generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((48,), decoder_norm))
    torch.testing.assert_close(sae.W_enc / encoder_norm, sae.W_dec.t() / decoder_norm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TopKSettings(k=64), "k: must be below d_sae = 48, found 64"),
        (BatchTopKSettings(k=48), "k: must be below d_sae = 48, found 48"),
        (BatchTopKSettings(k=0), "k: must be at least 1, found 0"),
        (TopKSettings(k=4, auxk_alpha=-1), "auxk_alpha: must be a finite number of at least 0, found -1"),
        (TopKSettings(k=4, auxk_alpha=float("nan")), "auxk_alpha: .* found nan"),
        (MatryoshkaSettings(k=64, widths=(8,)), "k: must be below d_sae = 48, found 64"),
        (MatryoshkaSettings(k=4, widths=()), "widths: at least one width is needed, found none"),
        (MatryoshkaSettings(k=4, widths=(8, 8)), "widths: must be above 0 and ascending, found 8 after 8"),
        (MatryoshkaSettings(k=4, widths=(0, 8)), "widths: must be above 0 and ascending, found 0"),
        (MatryoshkaSettings(k=4, widths=(8, 64)), "widths: must be at most d_sae = 48, found 64"),
        (StandardSettings(l1_coefficient=-2), "l1_coefficient: must be a finite number of at least 0"),
        (GatedSettings(l1_coefficient=float("inf")), "l1_coefficient: .* found inf"),
        (TopKSettings(k=4, encoder_norm=0), "encoder_norm: must be a finite number above 0, found 0"),
        (JumpReLUSettings(target_l0=4, encoder_norm=-1), "encoder_norm: .* found -1"),
        (JumpReLUSettings(target_l0=0), "target_l0: must be a finite number above 0, found 0"),
        (JumpReLUSettings(target_l0=48), "target_l0: must be below d_sae = 48, found 48"),
        (JumpReLUSettings(target_l0=4, bandwidth=0), "bandwidth: must be a finite number above 0, found 0"),
        (JumpReLUSettings(target_l0=4, l0_coefficient=-1), "l0_coefficient: must be .* at least 0, found -1"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(settings, 48)
