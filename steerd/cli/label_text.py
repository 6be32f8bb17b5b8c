"""Labels as the command line shows them: never without what their tests found."""

from __future__ import annotations

from steerd.sae.feature_label import FeatureLabel, LabelScore


def value_text(score: LabelScore | None) -> str:
    """A score for a column of a table."""
    return "untested" if score is None else f"{score.value:.2f}{' fails' if score.fails else ''}"


def label_text(label: FeatureLabel) -> str:
    """A label and its one score, for where there is no column for it."""
    return f"{label.text} [{value_text(label.score)}{_strong(label.score)}]"


def brief_text(label: FeatureLabel) -> str:
    """A label without the remark in brackets at its end, and its score as a number alone."""
    score = "?" if label.score is None else f"{label.score.value:.2f}"
    return f"{label.text.partition(' (')[0]} [{score}]"


def label_line(label: FeatureLabel) -> str:
    """A label with all its scores."""
    by = f", written by {label.by}" if label.by else ""
    return f"{label.text}{by}: {', '.join(map(_found, label.scores)) or 'untested'}"


def _found(score: LabelScore) -> str:
    judge = f" by {score.judge}" if score.judge else ""
    fails = " (fails)" if score.fails else ""
    value = f"{score.value:.0f} of 5" if score.method == "rubric" else f"{score.value:.2f}"
    return f"{score.method} {value}{judge}{fails}{_strong(score)}"


def _strong(score: LabelScore | None) -> str:
    return "" if score is None or score.strong is None else f", {score.strong:.2f} where strong"
