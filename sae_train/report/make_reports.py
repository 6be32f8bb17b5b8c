"""The command: finds the SAEs, their host and the activation cache, and writes a page for each SAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_train.config import HostConfig
from sae_train.config_file import load_config
from sae_train.features.feature_evidence import Evidence
from sae_train.report.page import write_whole_file
from sae_train.report.report import Known, page_of
from sae_train.report.run_files import (
    RUN_CONFIG,
    SAES,
    ReportedSae,
    ReportError,
    find_saes,
    read_log,
)
from sae_train.report.surplus import Hosts, load_evidence
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import CONFIG_FILE, SaeBundle, load_sae

PAGES = "reports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for."""

    path: Path
    """A run's folder, or one SAE's."""
    sae: str | None = None
    """One of the run's SAEs by name."""
    output: Path | None = None
    features: int | None = None
    """How many features to list, all when absent."""
    tokens: int | None = None
    """Cached rows to look through for histograms and contexts, as many as the export when absent."""
    compare: Sequence[Path] = ()
    """Other SAEs' folders or cards for the frontier."""
    use_host: bool = True


def make_reports(request: Request) -> list[Path]:
    """Write the pages and return their paths; raises SteerdError for what cannot be read or written.

    A run's pages go to its `reports` folder, a lone SAE's to the current one, unless an output is named. What
    the host or the cache would add is left out where they are not to be had, and the page says so.
    """
    for name in ("features", "tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise ReportError(f"--{name}: must be at least 1, found {value}")
    saes = find_saes(request.path, request.sae)
    if request.output is not None and len(saes) > 1:
        names = ", ".join(sae.name for sae in saes)
        raise ReportError(f"--output: names one file, but there are several SAEs; choose by --sae: {names}")
    hosts, pages = Hosts(), []
    for sae in saes:
        page = request.output or (sae.run / PAGES if sae.run else Path()) / f"{sae.name}.html"
        write_whole_file(page, page_of(_gather(sae, request, hosts)))
        pages.append(page)
    return pages


def _gather(sae: ReportedSae, request: Request, hosts: Hosts) -> Known:
    """All that is to be had about one SAE."""
    bundle = load_sae(sae.folder)
    features = min(request.features or bundle.sae.d_sae, bundle.sae.d_sae)
    remarks: list[str] = []
    host = _host(sae, bundle, hosts, remarks) if request.use_host else None
    return Known(
        bundle=bundle,
        features=features,
        log=read_log(sae.run) if sae.run else (),
        others=[*_siblings(sae), *request.compare],
        host=host,
        evidence=_evidence(sae, bundle, host, remarks, features=features, tokens=request.tokens),
        remarks=remarks,
    )


def _host(sae: ReportedSae, bundle: SaeBundle, hosts: Hosts, remarks: list[str]) -> HostModel | None:
    config = (
        load_config(sae.run / RUN_CONFIG).host if sae.run else HostConfig(name=bundle.metadata.model_name)
    )
    found = hosts.load(config.name, config.dtype, bundle.sae.d_model)
    if isinstance(found, HostModel):
        return found
    remarks.append(found)
    return None


def _evidence(
    sae: ReportedSae,
    bundle: SaeBundle,
    host: HostModel | None,
    remarks: list[str],
    *,
    features: int,
    tokens: int | None,
) -> Evidence | None:
    if sae.run is None:
        remarks.append(
            "Made from the SAE's folder alone; its run's folder would add curves and more contexts."
        )
        return None
    if host is None:
        return None
    config = load_config(sae.run / RUN_CONFIG)
    tokens = tokens or config.evaluation.statistics_tokens
    found = load_evidence(bundle, config, host, features=features, tokens=tokens)
    if isinstance(found, Evidence):
        return found
    remarks.append(found)
    return None


def _siblings(sae: ReportedSae) -> list[Path]:
    """The other SAEs of the same run."""
    if sae.run is None:
        return []
    folders = (config.parent for config in sorted(sae.run.glob(f"{SAES}/*/{CONFIG_FILE}")))
    return [folder for folder in folders if folder != sae.folder]
