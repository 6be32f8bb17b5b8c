"""From a finished run to an SAE folder: fold, round, calibrate, measure, describe, save, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.held_out import held_out_blocks
from sae_train.architectures.trainable_sae import TrainableSae
from sae_train.config import SaeConfig
from sae_train.evaluation.calibration import Calibration
from sae_train.evaluation.cross_entropy import Splice
from sae_train.evaluation.evaluation import Evaluation, evaluate_sae
from sae_train.export.provenance import provenance
from sae_train.export.served_form import ServedForm, check_reload, served_form
from sae_train.features.feature_pages import feature_pages
from sae_train.labels.word_detection import with_word_scores
from sae_train.surroundings import Surroundings
from sae_train.training.sae_training import SaeTraining
from sae_train.training.trained_sae import TrainedSae
from steerd.host.hook_point import HookPoint
from steerd.host.token_texts import TokenTexts
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureNote
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae, save_sae


def export_sae(folder: Path, trained: TrainedSae, around: Surroundings) -> SaeMetadata:
    """Write the served form to `folder`, after reloading it and comparing activations; raises ExportError."""
    scale, hook_point = trained.scale, trained.config.hook_point
    served = _served(trained.sae, trained.config, scale, around)
    evaluation = measure(served.sae, hook_point, scale, around, calibration=served.calibration).as_json()
    place = {"sae": trained.config.name, "step": trained.steps, "tokens": trained.tokens}
    around.log.write("evaluation", **place, metrics=evaluation)
    statistics, notes = _features(served.sae, trained, around)
    record = provenance(trained, evaluation, statistics, around)
    metadata = SaeMetadata.describe(
        served.sae,
        name=folder.name,
        model_name=around.host.name,
        hook_point=str(hook_point),
        provenance=record,
    )
    bundle = SaeBundle(sae=served.sae, metadata=metadata, statistics=statistics, notes=notes)
    sample = next(around.held_out(hook_point, scale)).resid
    weights_dtype = _weights_dtype(trained.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as trial:
        save_sae(Path(trial), bundle, weights_dtype=weights_dtype)
        check_reload(load_sae(Path(trial)).sae, served.sae, trained.sae, scale=scale.scale, sample=sample)
    return save_sae(folder, bundle, weights_dtype=weights_dtype)


def measure(
    sae: SparseAutoencoder,
    hook_point: HookPoint,
    scale: ActivationScale,
    around: Surroundings,
    *,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Measure a served form on the held-out split, in the host's forward too."""
    evaluation = around.config.evaluation
    blocks = held_out_blocks(
        around.cache, evaluation.cross_entropy_tokens, of=around.config.data.held_out_tokens
    )
    stage = around.log.stage("evaluate", sum(len(block.ids) - 1 for block in blocks))
    splice = Splice(
        host=around.host,
        hook_point=hook_point,
        blocks=blocks,
        outlier_limit=scale.outlier_limit,
        batch_tokens=evaluation.batch_tokens,
        on_tokens=stage.advance,
    )
    rows = partial(around.held_out, hook_point, scale)
    return evaluate_sae(sae, rows, splice=splice, calibration=calibration)


def measure_in_passing(
    around: Surroundings, config: SaeConfig, training: SaeTraining, scale: ActivationScale
) -> dict[str, Any]:  # Any: JSON values
    """Measure an SAE as it stands, on a part of the held-out split, without the host."""
    tokens = around.config.evaluation.every_tokens
    served = _served(training.sae, config, scale, around, tokens=tokens)
    rows = partial(around.held_out, config.hook_point, scale, tokens=tokens)
    return evaluate_sae(served.sae, rows, calibration=served.calibration).as_json()


def _served(
    sae: TrainableSae,
    config: SaeConfig,
    scale: ActivationScale,
    around: Surroundings,
    *,
    tokens: int | None = None,
) -> ServedForm:
    def rows() -> Iterator[Tensor]:
        return (batch.resid for batch in around.held_out(config.hook_point, scale, tokens=tokens))

    return served_form(sae, scale.scale, weights_dtype=_weights_dtype(config), rows=rows)


def _features(
    sae: SparseAutoencoder, trained: TrainedSae, around: Surroundings
) -> tuple[FeatureStatistics, tuple[FeatureNote, ...]]:
    tokens = around.config.evaluation.statistics_tokens
    stage = around.log.stage("features", tokens)
    hook_point, scale = trained.config.hook_point, trained.scale
    statistics, notes = feature_pages(
        sae, around.host, around.cache, hook_point, scale, tokens=tokens, on_tokens=stage.advance
    )
    windows = around.held_out_windows(sae, hook_point, scale)
    texts = TokenTexts(around.host.tokenizer)
    return statistics, with_word_scores(notes, statistics.max_activation.tolist(), windows, texts)


def _weights_dtype(sae: SaeConfig) -> torch.dtype:
    return torch.bfloat16 if sae.weights_dtype == "bfloat16" else torch.float32
