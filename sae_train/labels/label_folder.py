"""The labels of an SAE folder tested, by their words and by a judge where there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.activations.activation_scale import ActivationScale
from sae_train.features.feature_pages import sampled_examples
from sae_train.labels.endpoint import EndpointJudge, EndpointSettings
from sae_train.labels.held_out_windows import HeldOutWindows
from sae_train.labels.host_judge import HostJudge
from sae_train.labels.journal import Journal, open_journal
from sae_train.labels.judge import Judge
from sae_train.labels.label_contexts import LabelContexts
from sae_train.labels.label_summary import label_summary
from sae_train.labels.labelling import Labelling, judge_features, with_judged
from sae_train.labels.word_detection import with_word_scores
from sae_train.surroundings import Surroundings
from steerd.errors import ConfigError, SaeFileError
from steerd.host.hook_point import HookPoint
from steerd.host.token_texts import TokenTexts
from steerd.sae.feature_note import FeatureExample, FeatureNote
from steerd.sae.sae_file import SaeBundle, save_notes

_SEED = 0
_LEAST_ACTIVE = 2 * 10  # windows, of which about half are for tests

Record = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelWish:
    """What `sae-train labels` is asked to do beside testing all labels by their words.

    `judge` is an endpoint, "host", or None for nobody, who is asked about `features`, or where there are none
    about `sample` features drawn at random. `contexts` are noted over the order of each feature's activations
    where its note has none.
    """

    judge: EndpointSettings | str | None = None
    features: tuple[int, ...] = ()
    sample: int = 50
    writes: bool = True
    rubric: bool = False
    contexts: int = 0


def label_folder(
    folder: Path, bundle: SaeBundle, scale: ActivationScale, around: Surroundings, wish: LabelWish
) -> Record:
    """Write what the tests find into the folder's notes, and return a summary.

    Raises SaeFileError for a folder without statistics or notes, ConfigError for features that it does not
    have, and what judge and journal raise; what the judge had answered by then is in the journal.
    """
    notes, statistics = bundle.notes, bundle.statistics
    if notes is None or statistics is None:
        raise SaeFileError(f"{folder}: has no labels to test: its features are not described")
    windows = around.held_out_windows(bundle.sae, HookPoint.parse(bundle.metadata.hook_point), scale)
    texts = TokenTexts(around.host.tokenizer)
    max_activation = statistics.max_activation.tolist()
    notes = with_word_scores(notes, max_activation, windows, texts)
    if wish.contexts:
        notes = _with_sampled(notes, sampled_examples(bundle.sae, windows.source, texts, wish.contexts))
    judge = _judge(wish, around)
    if judge is not None:
        labelling = Labelling(
            judge=judge,
            contexts=LabelContexts(bundle.sae, windows, texts),
            max_activation=max_activation,
            writes=wish.writes,
            rubric=wish.rubric,
        )
        path = Path(around.config.output) / "labels" / f"{folder.resolve().name}.jsonl"
        with open_journal(path, _about(bundle, windows, notes, labelling)) as journal:
            _judge_all(labelling, _chosen(notes, windows, wish), journal, around)
            notes = with_judged(notes, journal)
    save_notes(folder, notes)
    return label_summary(notes)


def _with_sampled(
    notes: Sequence[FeatureNote], sampled: Sequence[Sequence[FeatureExample]]
) -> tuple[FeatureNote, ...]:
    return tuple(
        note if note.sampled else replace(note, sampled=found)
        for note, found in zip(notes, sampled, strict=True)
    )


def _judge(wish: LabelWish, around: Surroundings) -> Judge | None:
    match wish.judge:
        case EndpointSettings():
            return EndpointJudge(wish.judge)
        case "host":
            return HostJudge(around.host)
        case _:
            return None


def _chosen(notes: Sequence[FeatureNote], windows: HeldOutWindows, wish: LabelWish) -> list[FeatureNote]:
    unknown = [feature for feature in wish.features if not 0 <= feature < len(notes)]
    if unknown:
        raise ConfigError(f"features must be from 0 to {len(notes) - 1}; got {unknown[0]}")
    if wish.features:
        return [notes[feature] for feature in dict.fromkeys(wish.features)]
    likely = [note for note in notes if len(windows.active(note.feature).windows) >= _LEAST_ACTIVE]
    order = np.random.default_rng(_SEED).permutation(len(likely))
    return [likely[place] for place in order[: wish.sample]]


def _about(
    bundle: SaeBundle, windows: HeldOutWindows, notes: Sequence[FeatureNote], labelling: Labelling
) -> Record:
    """What a journal's answers depend on."""
    labels = "\n".join(note.label for note in notes)
    return {
        "weights": bundle.metadata.weights_sha256,
        "labels": hashlib.sha256(labels.encode()).hexdigest(),
        "texts": hashlib.sha256(windows.token_ids.tobytes()).hexdigest(),
        "judge": labelling.judge.name,
        "writes": labelling.writes,
        "rubric": labelling.rubric,
    }


def _judge_all(
    labelling: Labelling, notes: Sequence[FeatureNote], journal: Journal, around: Surroundings
) -> None:
    stage = around.log.stage("labels", len(notes), "features")
    stage.found(sum(note.feature in journal.done for note in notes))
    judge_features(labelling, notes, journal, stage.advance)
