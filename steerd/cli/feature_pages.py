"""Features on a terminal: a table of matches, or all about one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from steerd.cli.label_text import label_line, value_text
from steerd.cli.tables import named
from steerd.cli.token_painter import painted
from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureExample
from steerd.studies.feature_matches import FeatureMatch
from steerd.studies.feature_page import FeaturePage, TokenEffect

_SHOWN_TOKENS = 8


def matches_table(matches: Sequence[FeatureMatch], measure: str) -> Table:
    """A row a feature; `measure` names the column of how well it matches, none without."""
    table = Table("feature", "label", "score", "strong")
    texts = any(match.texts is not None for match in matches)
    for heading in (measure, *(("fires on", "elsewhere") if texts else ()), "density", "max"):
        if heading:
            table.add_column(heading, justify="right")
    for heading in ("top tokens", "promotes"):
        table.add_column(heading)
    for match in matches:
        table.add_row(*_row(match, has_measure=bool(measure)))
    return table


def _row(match: FeatureMatch, *, has_measure: bool) -> list[str]:
    row = [named(match.feature), *_label(match.label)]
    if has_measure:
        row.append(f"{match.match:.2f}")
    if match.texts is not None:
        row += [str(match.texts.fired_on), str(match.texts.fired_elsewhere)]
    row += _figures(match.density, match.max_activation)
    return [*row, _quoted(match.top_tokens), _quoted(match.promoted_tokens)]


def _label(label: FeatureLabel | None) -> tuple[str, str, str]:
    """Text, score, and score where the feature is strongly active."""
    if label is None:
        return "", "", ""
    strong = label.score and label.score.strong
    return label.text, value_text(label.score), "" if strong is None else f"{strong:.2f}"


def print_page(page: FeaturePage, console: Console) -> None:
    """Labels, figures, tokens, neighbours and contexts of one feature."""
    shown = page.labels[0].text if page.labels else "no label"
    density, highest = _figures(page.density, page.max_activation)
    console.print(f"{named(page.feature)}  {shown}", style="bold")
    console.print(f"at {page.hook_point}")
    for label in page.labels:
        console.print(label_line(label))
    console.print("never active" if page.dead else f"density {density}, largest activation {highest}")
    console.print(f"most active on {_quoted(page.top_tokens)}")
    if page.promoted_tokens or page.promoted:
        console.print(f"promotes {_effects(page.promoted) or _quoted(page.promoted_tokens)}")
    if page.suppressed:
        console.print(f"suppresses {_effects(page.suppressed)}")
    if page.neighbours:
        console.print(matches_table(page.neighbours, "cosine"))
    for example in page.contexts:
        console.rule(_example_title(example), align="left")
        console.print(painted(example.tokens, example.values))


def _example_title(example: FeatureExample) -> str:
    peak = f"{max(example.values, default=0.0):.2f}"
    if example.percentile is None:
        return peak
    return f"{peak}, stronger than {example.percentile:.0f}% of where it is active"


def _figures(density: float | None, max_activation: float | None) -> tuple[str, str]:
    """Density and largest activation, as far as they are known."""
    return (
        "" if density is None else f"{density:.3%}",
        "" if max_activation is None else f"{max_activation:.2f}",
    )


def _effects(effects: Sequence[TokenEffect]) -> str:
    return " ".join(f"{effect.text!r} {effect.effect:+.1f}" for effect in effects)


def _quoted(tokens: Sequence[str]) -> str:
    return " ".join(repr(token) for token in tokens[:_SHOWN_TOKENS])
