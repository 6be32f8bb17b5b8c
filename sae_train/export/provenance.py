"""What `steerd.json` says about an SAE: host, recipe, data, metrics, time and versions."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
import torch
import transformers

from sae_train.config import Config, SaeConfig
from sae_train.recipe import recipe, sae_recipe
from sae_train.surroundings import Surroundings
from sae_train.training.trained_sae import TrainedSae
from steerd.sae.feature_files import FeatureStatistics


def provenance(
    trained: TrainedSae, metrics: dict[str, Any], statistics: FeatureStatistics, around: Surroundings
) -> dict[str, Any]:  # Any: JSON values
    """Return the record, without the format version that the file adds."""
    config, sae = around.config, trained.config
    return {
        "host": {
            "name": around.host.name,
            "content_hash": around.host.content_hash,
            "dtype": config.host.dtype,
        },
        "hook_point": str(sae.hook_point),
        "median_resid_norm": trained.scale.median_norm,
        "activation_units": "residual-stream units: decoder rows have norm 1, activation scale folded",
        "training_architecture": sae.architecture,
        "recipe": _recipe(config, sae),
        "data": _data(trained, around),
        "metrics": {
            **metrics,
            "dead_features": int(statistics.dead.sum()),
            "weights_dtype": sae.weights_dtype,
            "note": "on held-out documents, of the weights as stored; outliers and first tokens left out",
        },
        "training": {
            "steps": trained.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "saes_in_run": len(config.saes),
        },
        "versions": _versions(),
        "licence": config.export.licence,
        "notes": config.export.notes,
    }


def _recipe(config: Config, sae: SaeConfig) -> dict[str, Any]:
    """The run's configuration with this SAE's table alone."""
    values = recipe(config)
    del values["saes"]
    return {**values, "sae": sae_recipe(sae)}


def _data(trained: TrainedSae, around: Surroundings) -> dict[str, Any]:
    hook_points = around.config.hook_points
    sources: dict[str, int] = {}
    for shard in around.cache.shards("train", hook_points, tokens=around.config.data.tokens):
        kept = np.add.reduceat(shard.keep.astype(np.int64), shard.starts[:-1])  # [blocks]
        for source, tokens in zip(shard.sources, kept.tolist(), strict=True):
            sources[source] = sources.get(source, 0) + tokens
    return {
        "distinct_tokens": around.config.data.tokens,
        "held_out_tokens": around.cache.kept_tokens("held_out", hook_points),
        "outlier_share": trained.outlier_share,
        "cached_tokens_by_source": dict(sorted(sources.items(), key=lambda item: -item[1])),
    }


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
