"""Small random SAEs, in memory, for every test that needs one."""

from __future__ import annotations

from typing import Protocol

import torch

from steerd.host.hook_point import HookPoint
from steerd.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import Architecture
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureExample, FeatureNote
from steerd.sae.sae_file import SaeBundle, SaeMetadata


class HostLike(Protocol):
    """What an SAE has to know of its host."""

    @property
    def name(self) -> str: ...

    @property
    def d_model(self) -> int: ...


def random_sae(
    d_model: int = 16,
    d_sae: int = 64,
    *,
    seed: int = 0,
    architecture: Architecture = "jumprelu",
    dtype: torch.dtype = torch.float32,
) -> SparseAutoencoder:
    """Unit decoder rows, and on inputs of any size roughly half of the features active (8 with TopK)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_dec = normal(d_sae, d_model)
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    activations: dict[Architecture, ActivationFunction] = {
        "standard": ReLU(),
        "jumprelu": JumpReLU(0.01 * normal(d_sae).abs()),
        "topk": TopK(8),
    }
    return SparseAutoencoder(
        W_enc=normal(d_model, d_sae) / d_model**0.5,
        b_enc=0.005 * normal(d_sae),
        W_dec=W_dec,
        b_dec=0.01 * normal(d_model),
        activation=activations[architecture],
    ).to(dtype=dtype)


def tiny_sae(
    host: HostLike,
    hook_point: HookPoint | str,
    seed: int = 0,
    d_sae: int = 64,
    activation: Architecture = "jumprelu",
) -> SaeBundle:
    """A random SAE for the host, with statistics and notes of its features."""
    sae = random_sae(host.d_model, d_sae, seed=seed, architecture=activation)
    return bundle_of(sae, name=f"tiny-{seed}", model_name=host.name, hook_point=str(hook_point))


def bundle_of(
    sae: SparseAutoencoder,
    *,
    name: str = "tiny",
    model_name: str = "tiny-host",
    hook_point: str = "blocks.1.hook_resid_post",
) -> SaeBundle:
    """The SAE with made-up statistics and notes."""
    provenance = {"format_version": 1, "recipe": {"tokens": 1000}, "metrics": {"l0": 8.5}}
    return SaeBundle(
        sae=sae,
        metadata=SaeMetadata.describe(
            sae, name=name, model_name=model_name, hook_point=hook_point, provenance=provenance
        ),
        statistics=_statistics(sae.d_sae),
        notes=tuple(_note(feature) for feature in range(sae.d_sae)),
    )


def _statistics(d_sae: int) -> FeatureStatistics:
    steps = torch.arange(1, d_sae + 1, dtype=torch.float32)
    dead = steps == 2
    alive = (~dead).float()
    return FeatureStatistics(
        max_activation=steps / 4 * alive, density=alive / steps, mean_activation=steps / 8 * alive, dead=dead
    )


def _note(feature: int) -> FeatureNote:
    example = FeatureExample(tokens=(" a", "b\u2028", "\N{SNOWMAN}"), values=(0.0, 1.5, feature / 8))
    return FeatureNote(
        feature=feature,
        label=f"label of {feature}",
        top_tokens=(" a", "\n"),
        promoted_tokens=(f" token{feature}",),
        examples=(example,),
    )
