"""The data sets of the `known-truth` command by name, each with SAEs that suit it."""

from __future__ import annotations

from dataclasses import dataclass

from sae_train.architectures.catalogue import SETTINGS, Settings
from sae_train.known_truth.synthetic_features import SyntheticFeatures, SyntheticSettings
from sae_train.known_truth.toy_superposition import ToySettings, ToySuperposition
from sae_train.known_truth.truth import KnownTruth
from steerd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A truth, and the size, sparsity and budget of the SAEs that look for it."""

    truth: ToySettings | SyntheticSettings
    d_sae: int
    l0: int
    """Active features a row that every architecture aims at."""
    standard_l1: float
    """The coefficient with which a standard SAE comes to about `l0`."""
    gated_l1: float
    learning_rate: float
    samples: int
    batch_size: int = 1024

    def open(self, device: str = "cpu") -> KnownTruth:
        """Draw the truth."""
        if isinstance(self.truth, ToySettings):
            return ToySuperposition(self.truth, device=device)
        return SyntheticFeatures(self.truth, device=device)

    def settings(self, architecture: str) -> Settings:
        """Return what an SAE of that architecture is trained with; ConfigError for an unknown one."""
        if architecture not in SETTINGS:
            raise ConfigError(f"architecture: must be one of {', '.join(SETTINGS)}, found {architecture!r}")
        fields = {
            "standard": {"l1_coefficient": self.standard_l1},
            "gated": {"l1_coefficient": self.gated_l1},
            "topk": {"k": self.l0},
            "batch_topk": {"k": self.l0},
            "matryoshka_batch_topk": {"k": self.l0, "widths": (self.d_sae // 8, self.d_sae // 2)},
            "jumprelu": {
                "target_l0": float(self.l0),
                "sparsity_loss": "row_quadratic",
                "l0_coefficient": 1 / 8,
                "encoder_norm": 0.1,
            },
        }
        return SETTINGS[architecture](**fields[architecture])  # type: ignore[arg-type]  # a table per type


PRESETS: dict[str, Preset] = {
    "toy": Preset(
        truth=ToySettings(),
        d_sae=128,
        l0=3,
        standard_l1=5.0,
        gated_l1=5.0,
        learning_rate=1e-2,
        samples=500_000,
    ),
    "small": Preset(
        truth=SyntheticSettings(num_features=1024, d_model=128, roots=8),
        d_sae=256,
        l0=8,
        standard_l1=1.6,
        gated_l1=2.2,
        learning_rate=1e-2,
        samples=1_500_000,
    ),
    "full": Preset(
        truth=SyntheticSettings(num_features=16_384, d_model=768, roots=128),
        d_sae=4096,
        l0=25,
        standard_l1=5.0,
        gated_l1=5.0,
        learning_rate=1e-3,
        samples=200_000_000,
    ),
}
