"""Does steering by a feature do what the feature's label says, and does another feature not do it?

Five features of a starter SAE (see effect_features for the rule), each added at five strengths, multiples
of its recorded maximum, to every ordinary token of sixteen neutral chats and of the answers. Measured:
- in the answers, read again by the unsteered host: the feature's own activation, the share of its top words,
  and the host's surprise (how strange it finds the text: steering too strong breaks it);
- at the first new token: how much likelier the feature's top words are, and the KL divergence from the
  unsteered distribution.
The same is measured, of the same feature, while its control feature is added at the same strengths.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.effect_features import NUM_TOPICS, SteeredFeature, Vocabulary, choose_features
from benchmarks.effect_measures import UNSTEERED, Push, ReadText, SteeredWriter, Texts, UnsteeredReader
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.config import DEFAULT_MODEL
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder

NAME = "steering_effect"
NUM_FEATURES = 5
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)  # multiples of the feature's recorded maximum

MONOTONE_BOUND = 0.9
CONTROL_BOUND = 0.1

SHOWN_PROMPT = 1
SHOWN_CHARACTERS = 100

PROMPTS = (
    "Tell me about your day.",
    "Write a short story.",
    "What should I do this weekend?",
    "Give me some advice for a new beginning.",
    "Describe a place you would like to visit.",
    "What is on your mind?",
    "Tell me something I do not know yet.",
    "Write a letter to an old friend.",
    "How can I become a better person?",
    "Describe a typical morning.",
    "What makes a good conversation?",
    "Tell me a joke.",
    "What do people usually forget?",
    "Write a few lines for a greeting card.",
    "Explain something interesting to me.",
    "What would you change in the world?",
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What one push did to one feature's measures, means over the prompts.

    `reread` is in multiples of the feature's maximum, `top_words` a share of the answer's tokens, `surprise`
    and `kl` are in nats, `logprob_change` is that of a top word as the first new token, in nats.
    """

    reread: float
    top_words: float
    surprise: float
    logprob_change: float
    kl: float


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    bundle = load_sae(options.sae)
    reading_host, writing_host = HostModel.load(DEFAULT_MODEL), HostModel.load(DEFAULT_MODEL)
    vocabulary = Vocabulary(reading_host)
    prompts = [encode_chat(reading_host.tokenizer, [ChatMessage("user", text)]) for text in PROMPTS]
    reader = UnsteeredReader(reading_host, bundle)
    count, num_topics = (2, 20) if options.quick else (NUM_FEATURES, NUM_TOPICS)
    features = choose_features(bundle, vocabulary, reader, count=count, num_topics=num_topics)
    writer = SteeredWriter(writing_host, bundle)
    try:
        study = Study(writer, reader, vocabulary, prompts[:4] if options.quick else prompts)
        study.run(features, num_new=12 if options.quick else 48)
    finally:
        writer.close()
    for feature in features:
        add_feature(report, feature, study)
    for feature in features:
        report.add_rows(f"Answers to {PROMPTS[SHOWN_PROMPT]!r}", study.answers(feature))
    report.finish()


class Study:
    """Runs every push once and measures it."""

    def __init__(
        self, writer: SteeredWriter, reader: UnsteeredReader, vocabulary: Vocabulary, prompts: Texts
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._vocabulary = vocabulary
        self._prompts = prompts
        self._texts: dict[Push, ReadText] = {}
        self._answers: dict[Push, list[int]] = {}  # ids, to one prompt
        self._next: dict[Push, Tensor] = {}  # log-probabilities [prompts, vocab]
        self._columns: dict[int, int] = {}

    def run(self, features: Sequence[SteeredFeature], num_new: int) -> None:
        """Write and read the texts of all pushes, of the features and of their controls."""
        read = [feature.index for feature in features]
        self._columns = {feature: column for column, feature in enumerate(read)}
        pushes = list(
            dict.fromkeys(push for feature in features for pair in pushes_of(feature) for push in pair)
        )
        with Progress(transient=True) as progress:
            written = self._writer.write(self._prompts, pushes, num_new)
            for push, continuations in progress.track(written, total=len(pushes), description="measuring"):
                self._answers[push] = list(continuations[SHOWN_PROMPT])
                self._texts[push] = self._reader.read(self._prompts, continuations, read)
                self._next[push] = self._reader.next_logprobs(self._prompts, [push] * len(self._prompts))

    def effect(self, feature: SteeredFeature, push: Push) -> Effect:
        """What the push did to the measures of the feature."""
        text, plain = self._texts[push], self._next[UNSTEERED]
        steered = self._next[push]
        words = [self._vocabulary.word_of_id[token_id] for token_id in text.token_ids]
        change = (steered - plain)[:, feature.word_ids]  # [prompts, tokens]
        return Effect(
            reread=float(text.acts[:, self._columns[feature.index]].mean()) / feature.max_activation,
            top_words=mean(word in feature.words for word in words),
            surprise=text.surprise,
            logprob_change=float(change.mean()),
            kl=float((steered.exp() * (steered - plain)).sum(dim=1).mean()),
        )

    def answers(self, feature: SteeredFeature) -> list[Row]:
        """The beginning of one answer at every strength."""
        return [
            {
                "feature": feature.index,
                "x max": strength,
                "answer": self._vocabulary.text(self._answers[push])[:SHOWN_CHARACTERS],
            }
            for strength, (push, _) in zip(STRENGTHS, pushes_of(feature), strict=True)
        ]


def pushes_of(feature: SteeredFeature) -> list[tuple[Push, Push]]:
    """By strength: the feature's push, and that of its control by the same amount."""
    amounts = [strength * feature.max_activation for strength in STRENGTHS]
    return [(_push(feature.index, amount), _push(feature.control, amount)) for amount in amounts]


def _push(feature: int, amount: float) -> Push:
    return Push(feature, amount) if amount else UNSTEERED


def add_feature(report: Report, feature: SteeredFeature, study: Study) -> None:
    """The rows and targets of one feature."""
    pairs = [tuple(study.effect(feature, push) for push in pair) for pair in pushes_of(feature)]
    steered, control = zip(*pairs, strict=True)
    title = (
        f"Feature {feature.index}: {feature.label} (density {feature.density:.2g}, "
        f"maximum {feature.max_activation:.3g}); control {feature.control}: {feature.control_label}"
    )
    report.add_rows(
        title, [_row(s, one, other) for s, one, other in zip(STRENGTHS, steered, control, strict=True)]
    )
    changes = [effect.logprob_change for effect in steered]
    report.at_least(f"effect_monotone.{feature.index}", rank_correlation(STRENGTHS, changes), MONOTONE_BOUND)
    for measure in ("reread", "logprob_change"):
        ratio = control_ratio(
            [getattr(effect, measure) for effect in steered], [getattr(effect, measure) for effect in control]
        )
        report.at_most(f"control_over_effect.{measure}.{feature.index}", ratio, CONTROL_BOUND)


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's: 1 when ys rise wherever xs do."""
    ranks = torch.tensor([list(xs), list(ys)]).argsort(dim=1).argsort(dim=1).double()
    return float(torch.corrcoef(ranks)[0, 1])


def control_ratio(steered: Sequence[float], control: Sequence[float]) -> float:
    """The control's mean gain over its value at strength 0, as a part of the feature's own; a loss is 0."""
    gain, control_gain = (mean(values[1:]) - values[0] for values in (steered, control))
    return max(control_gain, 0.0) / gain if gain > 0 else float("nan")


def _row(strength: float, steered: Effect, control: Effect) -> Row:
    return {
        "x max": strength,
        "reread": steered.reread,
        "top words": steered.top_words,
        "log p": steered.logprob_change,
        "KL": steered.kl,
        "surprise": steered.surprise,
        "control reread": control.reread,
        "control top words": control.top_words,
        "control log p": control.logprob_change,
        "control KL": control.kl,
        "control surprise": control.surprise,
    }


def _options() -> argparse.Namespace:
    parser = parser_of("What steering by five features of a starter SAE does, and a control does not.")
    parser.add_argument(
        "--sae", type=Path, default=sae_folder("starter-14"), help="the SAE folder (default: starter-14)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
