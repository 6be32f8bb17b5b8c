"""What of a configuration decides a run's result, as JSON: for checkpoints and for steerd.json."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sae_train.config import Config, SaeConfig


def recipe(config: Config) -> dict[str, Any]:  # Any: JSON values
    """What decides a run's result, as JSON: the configuration without the places on this machine."""
    values = dataclasses.asdict(config)
    del values["output"], values["data"]["cache"]
    values["data"]["sources"] = [
        {**source, "path": Path(source["path"]).name} for source in values["data"]["sources"]
    ]
    values["saes"] = [sae_recipe(sae) for sae in config.saes]
    return values


def sae_recipe(sae: SaeConfig) -> dict[str, Any]:  # Any: JSON values
    """One SAE's table as the file would hold it."""
    values = dataclasses.asdict(sae)
    values["hook_point"] = str(sae.hook_point)
    settings = values.pop("settings")
    return {**values, **settings}


def run_identity(config: Config) -> dict[str, Any]:  # Any: JSON values
    """What decides the weights at each step: the recipe without what is measured and said afterwards."""
    values = recipe(config)
    sources = [{**source, "licence": None} for source in values["data"]["sources"]]
    return {
        "seed": values["seed"],
        "host": values["host"],
        "saes": [{**sae, "weights_dtype": None} for sae in values["saes"]],
        "data": {**values["data"], "sources": sources},
        "training": {**values["training"], "log_every": None, "checkpoint_every": None, "prefetch": None},
    }
