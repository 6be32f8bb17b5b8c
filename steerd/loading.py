"""The host and the SAEs that a config names, from disk."""

from __future__ import annotations

from steerd.config import Config
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle, load_sae
from steerd.starters import sae_folder
from steerd.steering.loaded_saes import LoadedSaes


def load_host(config: Config) -> HostModel:
    """The configured host. Raises HostError."""
    model = config.model
    return HostModel.load(model.name, dtype=model.dtype, device=model.device, weights=model.weights)


def load_saes(config: Config, host: HostModel) -> LoadedSaes:
    """The configured SAEs, checked against the host. Raises SaeFileError."""
    saes = LoadedSaes(host)
    for sae in config.saes:
        saes.add(sae.name, read_sae(sae.path))
    return saes


def read_sae(name_or_path: str) -> SaeBundle:
    """An SAE from its folder, or a starter by its name. Raises SaeFileError."""
    return load_sae(sae_folder(name_or_path))
