"""What `steerd.json` says about an SAE: host, recipe, data, metrics, time and versions."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy
import torch
import transformers

from sae_train.activations.activation_cache import ActivationCache
from sae_train.config import Config
from sae_train.training.trainer import TrainedSae, recipe
from steerd.host.host_model import HostModel
from steerd.sae.feature_files import FeatureStatistics


def provenance(
    trained: TrainedSae,
    metrics: dict[str, Any],
    statistics: FeatureStatistics,
    *,
    config: Config,
    cache: ActivationCache,
    host: HostModel,
) -> dict[str, Any]:  # Any: JSON values
    """Return the record, without the format version that the file adds."""
    return {
        "host": {"name": host.name, "content_hash": host.content_hash, "dtype": config.host.dtype},
        "hook_point": config.sae.hook_point,
        "median_resid_norm": trained.scale.median_norm,
        "activation_units": "residual-stream units: decoder rows have norm 1, activation scale folded",
        "training_architecture": config.sae.architecture,
        "recipe": recipe(config),
        "data": _data(trained, cache),
        "metrics": {
            **metrics,
            "dead_features": int(statistics.dead.sum()),
            "weights_dtype": config.sae.weights_dtype,
            "note": "on held-out documents, of the weights as stored; outliers and first tokens left out",
        },
        "training": {"steps": trained.steps, "tokens": trained.tokens, "seconds": round(trained.seconds, 1)},
        "versions": _versions(),
        "licence": config.export.licence,
        "notes": config.export.notes,
    }


def _data(trained: TrainedSae, cache: ActivationCache) -> dict[str, Any]:
    sources: dict[str, int] = {}
    for shard in cache.shards("train"):
        for index, source in enumerate(shard.sources):
            part = slice(int(shard.starts[index]), int(shard.starts[index + 1]))
            sources[source] = sources.get(source, 0) + int(shard.keep[part].sum())
    return {
        "distinct_tokens": cache.kept_tokens("train"),
        "held_out_tokens": cache.kept_tokens("held_out"),
        "outlier_share": trained.outlier_share,
        "tokens_by_source": dict(sorted(sources.items(), key=lambda item: -item[1])),
    }


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
    }
