"""What a page can say beyond an SAE's own folder: by its host, and by the activations of its run."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.run_corpus import open_cache
from sae_train.activations.shard import CacheError
from sae_train.config import Config
from sae_train.features.feature_evidence import Evidence, gather_evidence
from sae_train.features.observed_rows import RowSource
from sae_train.report.run_files import ReportError
from steerd.errors import ConfigError, HostError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle

_NEEDS_CACHE = "histograms and further contexts come from the run's activation cache"


class Hosts:
    """Hosts by name, each loaded once; one that cannot be loaded is a remark, not an error."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], HostModel | str] = {}

    def load(self, name: str, dtype: str, d_model: int) -> HostModel | str:
        """Return the host, or why there is none; one of another width is none."""
        if (name, dtype) not in self._found:
            try:
                self._found[name, dtype] = HostModel.load(name, dtype=dtype)
            except HostError as error:
                self._found[name, dtype] = f"The host could not be loaded, so nothing is said by it: {error}"
        host = self._found[name, dtype]
        if isinstance(host, HostModel) and host.d_model != d_model:
            return f"The host {name} has d_model {host.d_model}, the SAE {d_model}, so nothing is said by it."
        return host


def load_evidence(
    bundle: SaeBundle, config: Config, host: HostModel, *, features: int, tokens: int
) -> Evidence | str:
    """Look through the run's cached rows, or say why there is nothing to look through."""
    if bundle.statistics is None:
        return f"The SAE has no recorded maxima, so there are no histograms: {_NEEDS_CACHE}."
    folder = Path(config.data.cache)
    if not (folder / "cache.json").is_file():
        return f"{folder} is not there: {_NEEDS_CACHE}."
    hook_point = HookPoint.parse(bundle.metadata.hook_point)
    try:
        cache = open_cache(config.data, host, seed=config.seed)
        source = RowSource.of_cache(cache, hook_point, _scale(bundle, config), tokens=tokens)
    except (CacheError, ConfigError) as error:
        return f"The run's activation cache cannot be used: {error}."
    with Progress() as progress:
        task = progress.add_task(f"features of {bundle.metadata.name}", total=source.rows)
        return gather_evidence(
            bundle.sae,
            source,
            bundle.statistics.max_activation,
            features=features,
            on_tokens=lambda rows: progress.advance(task, rows),
        )


def _scale(bundle: SaeBundle, config: Config) -> ActivationScale:
    median = bundle.metadata.provenance.get("median_resid_norm")
    if not isinstance(median, float):
        raise ReportError(
            f"{bundle.metadata.name}: steerd.json: median_resid_norm must be a number, found {median!r}"
        )
    return ActivationScale(median_norm=median, outlier_limit=median * config.training.outlier_norm, scale=1.0)
