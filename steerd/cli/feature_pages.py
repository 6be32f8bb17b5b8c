"""What an SAE folder tells about its features: a table of matches, or all about one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from steerd.cli.label_text import label_line, score_text
from steerd.cli.terminal import open_console
from steerd.cli.token_painter import painted
from steerd.errors import NotFound, SaeFileError
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureExample, FeatureNote
from steerd.sae.feature_search import search_words
from steerd.sae.sae_file import NOTES_FILE, SaeBundle, load_sae

_SHOWN_TOKENS = 8
_SHOWN_EXAMPLES = 5


def print_matches(folders: Sequence[Path], words: Sequence[str], limit: int) -> None:
    """A table for each SAE of the features that match, best matches first."""
    console = open_console()
    for folder in folders:
        bundle, notes = _with_notes(folder)
        density = None if bundle.statistics is None else bundle.statistics.density
        matches = [match.note for match in search_words(notes, words, density)]
        shown = min(limit, len(matches))
        console.print(_table(bundle, matches[:limit]))
        console.print(
            f"{shown} of {len(matches)} matches among {bundle.sae.d_sae} features of {bundle.metadata.name}"
        )


def _table(bundle: SaeBundle, notes: Sequence[FeatureNote]) -> Table:
    table = Table("feature", "label", "score", "density", "max", "top tokens", "promotes")
    for note in notes:
        label = note.shown_label
        table.add_row(
            f"{bundle.metadata.name}:{note.feature}",
            label.text,
            score_text(label.score),
            *_figures(bundle.statistics, note.feature),
            _quoted(note.top_tokens),
            _quoted(note.promoted_tokens),
        )
    return table


def print_feature(folder: Path, feature: int) -> None:
    """Label, figures, tokens and the contexts where one feature is most active; raises NotFound."""
    bundle, notes = _with_notes(folder)
    if not 0 <= feature < len(notes):
        message = f"feature must be from 0 to {len(notes) - 1}; got {feature}"
        raise NotFound(message, reason="FEATURE_NOT_FOUND", field="feature")
    note = notes[feature]
    density, highest = _figures(bundle.statistics, feature)
    console = open_console()
    console.print(f"{bundle.metadata.name}:{feature}  {note.shown_label.text}", style="bold")
    console.print(f"at {bundle.metadata.hook_point} of {bundle.metadata.model_name}")
    console.print(f"density {density}, largest activation {highest}")
    console.print(f"most active on {_quoted(note.top_tokens)}")
    console.print(f"promotes {_quoted(note.promoted_tokens)}")
    for label in filter(None, (FeatureLabel(note.label, note.scores), note.written)):
        console.print(label_line(label))
    for example in (*note.examples[:_SHOWN_EXAMPLES], *note.sampled):
        console.rule(_example_title(example), align="left")
        console.print(painted(example.tokens, example.values))


def _example_title(example: FeatureExample) -> str:
    peak = f"{max(example.values, default=0.0):.2f}"
    if example.percentile is None:
        return peak
    return f"{peak}, stronger than {example.percentile:.0f}% of where it is active"


def _with_notes(folder: Path) -> tuple[SaeBundle, Sequence[FeatureNote]]:
    bundle = load_sae(folder)
    if bundle.notes is None:
        raise SaeFileError(f"{folder}: {NOTES_FILE} is missing, so its features have no labels to search")
    return bundle, bundle.notes


def _figures(statistics: FeatureStatistics | None, feature: int) -> tuple[str, str]:
    if statistics is None:
        return "", ""
    if statistics.dead[feature]:
        return "dead", ""
    return f"{statistics.density[feature]:.3%}", f"{statistics.max_activation[feature]:.2f}"


def _quoted(tokens: Sequence[str]) -> str:
    return " ".join(repr(token) for token in tokens[:_SHOWN_TOKENS])
