"""Whether the SAEs read what they were trained on: one read a layer off explains little, and serves."""

from __future__ import annotations

from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.report import Finding, Status
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes

_SHARE = 0.5  # of the variance that it explained where it was evaluated: texts differ


def check_sae_fit(saes: LoadedSaes, rows: PlainRows) -> Finding:
    """Warn of SAEs that explain far less of a text's variance than their records say."""
    shares = {loaded.name: share for loaded in saes if (share := _share(loaded, rows)) is not None}
    if not shares:
        reason = "no SAE records how much variance it explains" if len(saes) else "no SAE"
        return Finding(Status.SKIPPED, None, None, reason)
    worst = min(shares, key=shares.__getitem__)
    status = Status.PASSED if shares[worst] >= _SHARE else Status.WARNING
    remark = f"least by {worst}; the share of the variance explained that its record says, at least"
    return Finding(status, shares[worst], _SHARE, remark)


def variance_explained(loaded: LoadedSae, rows: PlainRows) -> float:
    """1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2 over the ordinary rows."""
    x = rows.ordinary_at(loaded.hook_point)
    error = x - loaded.sae.decode(loaded.sae.encode(x))
    return 1.0 - float(error.square().sum() / (x - x.mean(dim=0)).square().sum())


def _share(loaded: LoadedSae, rows: PlainRows) -> float | None:
    metrics = loaded.metadata.provenance.get("metrics")
    recorded = metrics.get("variance_explained") if isinstance(metrics, dict) else None
    if not (isinstance(recorded, int | float) and recorded > 0):
        return None
    return variance_explained(loaded, rows) / recorded
