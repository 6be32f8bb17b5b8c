"""A comparison of two answers as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from steerd.cli.label_text import label_text
from steerd.cli.steered_text import steering_record
from steerd.cli.tables import MARK, edit_text, named
from steerd.studies.answers.result import AnswerComparison, AnswerScore, Flip, LeftOut

_LINES = 5  # of what was left out
_SIDES = {"right": "right", "wrong": "wrong", "both": "both", "neither": ""}


def features_table(found: AnswerComparison) -> Table:
    """A row a feature, those that push an answer marked; what gradients predicted in brackets.

    Logits, or log-probabilities where an answer is longer than one token.
    """
    assert found.right is not None
    assert found.wrong is not None
    is_long = max(found.right.num_tokens, found.wrong.num_tokens) > 1
    table = Table("feature", "label", "at token", "activation", title="Features, each ablated by itself")
    table.title_justify = "left"
    for side in ("right", "wrong"):
        what = "log-probability" if is_long else "logit"
        table.add_column(f"{side} answer's {what} falls by", justify="right")
    table.add_column("pushes")
    for feature in found.features:
        right, wrong = feature.right, feature.wrong
        if is_long:
            right, wrong = feature.right_logprob, feature.wrong_logprob
        table.add_row(
            named(feature.feature),
            label_text(feature.label) if feature.label else "",
            repr(found.token_texts[feature.position]),
            f"{feature.activation:.2f}",
            f"{right:+.2f} ({feature.predicted_right:+.2f})",
            f"{wrong:+.2f} ({feature.predicted_wrong:+.2f})",
            _SIDES[feature.pushes],
            style="dim" if feature.pushes == "neither" else "",
        )
    return table


def flip_table(flip: Flip) -> Table:
    """A row an intervention, in the form that `steerd generate` takes."""
    title = (
        "The right answer wins with" if flip.is_minimal else "The right answer wins with, perhaps with less"
    )
    table = Table("intervention", "label", title=title, title_justify="left")
    table.add_column("lead with it alone", justify="right")
    table.add_column("without it", justify="right")
    for member in flip.members:
        leads = (member.lead_alone, member.lead_without)
        shown = ("" if lead is None else f"{lead:+.3f}" for lead in leads)
        label = label_text(member.label) if member.label else ""
        table.add_row(edit_text(member.intervention), label, *shown, style=MARK)
    return table


def flip_lines(flip: Flip, controls: Sequence[str]) -> list[str]:
    """How likely both answers are under the flip, and what it does to the control texts."""
    lines = [f"log-probabilities then: right {flip.right.logprob:.3f}, wrong {flip.wrong.logprob:.3f}"]
    for text, effect in zip(controls, flip.controls, strict=False):
        lines.append(
            f"side effect on {text!r}: mean divergence {effect.mean_kl:.3g} nats a token, at most "
            f"{effect.max_kl:.3g}; another next token after {effect.changed:.0%} of {effect.tokens} tokens"
        )
    return lines


def no_flip_line(right: AnswerScore, wrong: AnswerScore, found: AnswerComparison) -> str:
    """Why no flip is told."""
    if right.logprob > wrong.logprob:
        return "the right answer is the likelier one as it is"
    if not found.complete:
        return f"what makes the right answer win is not known yet: {found.tried} sets were tried"
    return f"none of {found.tried} sets of interventions makes the right answer win"


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """A line for each of the first sets that were not tried, and how many more there are."""
    lines = [
        f"left out {' and '.join(map(edit_text, each.interventions))}: {each.reason}"
        for each in left_out[:_LINES]
    ]
    more = len(left_out) - len(lines)
    return [*lines, f"left out {more} more, see --json"] if more else lines


def as_record(found: AnswerComparison) -> dict[str, Any]:
    """The result as JSON; interventions in the form that the command line takes."""
    record = asdict(found) | {
        "steering": steering_record(found.steering),
        "left_out": [
            {"interventions": list(map(edit_text, each.interventions)), "reason": each.reason}
            for each in found.left_out
        ],
    }
    if found.flip is not None:
        for member, told in zip(found.flip.members, record["flip"]["members"], strict=True):
            told["intervention"] = edit_text(member.intervention)
    return record
