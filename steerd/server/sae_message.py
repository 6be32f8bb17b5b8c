"""A served SAE on the wire."""

from __future__ import annotations

from steerd.pb.v1 import catalog_service_pb2 as pb
from steerd.steering.intervention import WholeSae
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes


def sae_message(loaded: LoadedSae, saes: LoadedSaes) -> pb.Sae:
    """What clients are told of one of the served SAEs."""
    return pb.Sae(
        name=loaded.name,
        hook_point=str(loaded.hook_point),
        d_model=loaded.sae.d_model,
        d_sae=loaded.sae.d_sae,
        architecture=loaded.metadata.architecture,
        model_name=loaded.metadata.model_name,
        weights_sha256=loaded.metadata.weights_sha256,
        has_statistics=loaded.statistics is not None,
        median_resid_norm=saes.median_resid_norm(WholeSae(loaded.name)),
    )
