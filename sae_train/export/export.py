"""From a finished training run to an SAE folder: fold, round, calibrate, measure, describe, save, compare."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.held_out import held_out_blocks, held_out_rows
from sae_train.architectures.batch_topk import BatchTopKSae
from sae_train.config import Config
from sae_train.evaluation.calibration import calibrate_threshold
from sae_train.evaluation.reconstruction import CrossEntropy, Reconstruction, cross_entropy, reconstruction
from sae_train.export.provenance import provenance
from sae_train.features.feature_pages import feature_pages
from sae_train.training.run_log import RunLog
from sae_train.training.trainer import TrainedSae
from steerd.errors import SteerdError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae, save_sae

_TOLERANCE = 1e-4  # of the largest activation


class ExportError(SteerdError):
    """An exported SAE that does not compute what was trained."""

    reason = "EXPORT_ERROR"


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was measured on held-out tokens."""

    reconstruction: Reconstruction
    cross_entropy: CrossEntropy

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return one flat object; `cross_entropy_recovered` is the share of the zero-ablation loss kept."""
        values = dataclasses.asdict(self.reconstruction)
        values |= {f"cross_entropy_{name}": v for name, v in dataclasses.asdict(self.cross_entropy).items()}
        values["cross_entropy_recovered"] = self.cross_entropy.recovered
        return {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in values.items()}


def export_sae(
    folder: Path, trained: TrainedSae, *, config: Config, cache: ActivationCache, host: HostModel, log: RunLog
) -> SaeMetadata:
    """Write the served form to `folder`, after reloading it and comparing activations; raises ExportError."""
    exact = trained.sae.to_inference(trained.scale.scale, 0.0)
    served = _served_form(exact, trained, config, cache, host)
    metrics = measure(served, trained.scale, config=config, cache=cache, host=host, log=log)
    log.write("evaluation", **metrics.as_json())
    stage = log.stage("features", min(config.evaluation.statistics_tokens, cache.kept_tokens("train")))
    statistics, notes = feature_pages(
        served,
        host,
        cache,
        trained.scale,
        tokens=config.evaluation.statistics_tokens,
        on_tokens=stage.advance,
    )
    record = provenance(trained, metrics.as_json(), statistics, config=config, cache=cache, host=host)
    metadata = SaeMetadata.describe(
        served, name=folder.name, model_name=host.name, hook_point=config.sae.hook_point, provenance=record
    )
    bundle = SaeBundle(sae=served, metadata=metadata, statistics=statistics, notes=notes)
    sample = next(_rows(trained, cache, host))
    with tempfile.TemporaryDirectory(dir=folder.parent) as trial:
        save_sae(Path(trial), bundle, weights_dtype=_weights_dtype(config))
        check_reload(load_sae(Path(trial)).sae, served, exact, trained, sample)
    return save_sae(folder, bundle, weights_dtype=_weights_dtype(config))


def measure(
    sae: SparseAutoencoder,
    scale: ActivationScale,
    *,
    config: Config,
    cache: ActivationCache,
    host: HostModel,
    log: RunLog,
) -> Metrics:
    """Measure the served form on the held-out split."""
    rebuilt = reconstruction(sae, held_out_rows(cache, scale, host.special_token_ids))
    blocks = held_out_blocks(cache, config.evaluation.cross_entropy_tokens)
    stage = log.stage("evaluate", sum(len(block.ids) - 1 for block in blocks))
    losses = cross_entropy(
        host,
        HookPoint.parse(config.sae.hook_point),
        sae,
        blocks,
        outlier_limit=scale.outlier_limit,
        batch_tokens=config.evaluation.batch_tokens,
        on_tokens=stage.advance,
    )
    return Metrics(reconstruction=rebuilt, cross_entropy=losses)


def check_reload(
    reloaded: SparseAutoencoder,
    served: SparseAutoencoder,
    exact: SparseAutoencoder,
    trained: TrainedSae,
    sample: Tensor,
) -> None:
    """Compare activations on held-out rows [rows, d_model]; raises ExportError when they differ.

    The reloaded file must compute what was measured, and the folded weights, before rounding, what the
    trained parameters compute on scaled activations.
    """
    expected = served.encode(sample)
    _compare("the reloaded file", reloaded.encode(sample), expected)
    folded = torch.relu(sample.double() @ exact.W_enc + exact.b_enc) * trained.scale.scale
    _compare("the folded weights", folded, _trained_acts(trained.sae, sample * trained.scale.scale))


def _served_form(
    exact: SparseAutoencoder, trained: TrainedSae, config: Config, cache: ActivationCache, host: HostModel
) -> SparseAutoencoder:
    """The weights as the file will hold them, with the threshold calibrated for those."""
    weights_dtype = _weights_dtype(config)
    plain = exact.to(dtype=torch.float32)
    rounded = dataclasses.replace(
        plain, W_enc=plain.W_enc.to(weights_dtype).float(), W_dec=plain.W_dec.to(weights_dtype).float()
    )
    guess = trained.sae.last_smallest / trained.scale.scale
    threshold = calibrate_threshold(rounded, lambda: _rows(trained, cache, host), k=config.sae.k, guess=guess)
    return dataclasses.replace(rounded, activation=JumpReLU(torch.full((rounded.d_sae,), threshold)))


def _rows(trained: TrainedSae, cache: ActivationCache, host: HostModel) -> Iterator[Tensor]:
    return (batch.resid for batch in held_out_rows(cache, trained.scale, host.special_token_ids))


def _trained_acts(sae: BatchTopKSae, x: Tensor) -> Tensor:
    """What the trained parameters give before the choice of the largest, in float64."""
    centred = x.double() - sae.b_dec.detach().double()
    return torch.relu(centred @ sae.W_enc.detach().double() + sae.b_enc.detach().double())


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= _TOLERANCE * largest:
        raise ExportError(
            f"{what}: activations on held-out tokens differ by {difference:.3g} "
            f"where at most {_TOLERANCE * largest:.3g} is allowed"
        )


def _weights_dtype(config: Config) -> torch.dtype:
    return torch.bfloat16 if config.sae.weights_dtype == "bfloat16" else torch.float32
