"""The effects of features on a text as one HTML page: two shadings of the text for each feature.

Nothing is fetched and no script runs.
"""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from steerd.cli.label_text import label_text
from steerd.studies.effect_table import EffectTable, FeatureEffect

_MOST_CHANGED = 10
_CONTEXT = 6  # tokens shown before each of these


def render_effects(table: EffectTable, *, title: str) -> str:
    """The page. What a token's text holds stands in it as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("steerd.cli").joinpath("effect_page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title,
        complete=table.complete,
        num_tokens=len(table.token_ids),
        warnings=table.steering.warnings,
        features=[_feature(table, effect) for effect in table.effects],
    )


def visible(token: str) -> str:
    """A token's text with signs for what shows nothing of its own; a line still ends after its sign."""
    return "".join(map(_visible, token))


def _visible(character: str) -> str:
    match character:
        case "\n":
            return "↵\n"
        case "\t":
            return "⇥\t"
        case _ if character.isprintable():
            return character
    return f"⟨U+{ord(character):04X}⟩"


def _feature(table: EffectTable, effect: FeatureEffect) -> dict[str, object]:
    highest = table.strongest(effect)
    largest = max(map(abs, effect.changes), default=0.0)
    tokens = [
        {
            "text": visible(text),
            "told": _told(table, effect, position),
            "activation": _share(effect.activations[position], highest),
            "change": _share(abs(effect.changes[position]), largest),
            "lost": effect.changes[position] < 0,
        }
        for position, text in enumerate(table.token_texts)
    ]
    changed = sorted(range(len(tokens)), key=lambda position: -abs(effect.changes[position]))
    return {
        "name": f"{effect.feature.sae}:{effect.feature.index}",
        "label": label_text(effect.label) if effect.label else "",
        "highest": highest,
        "largest": largest,
        "active": sum(value > 0 for value in effect.activations),
        "total": effect.total_change,
        "tokens": tokens,
        "changed": [
            {
                "position": position,
                "before": visible("".join(table.token_texts[max(position - _CONTEXT, 0) : position])),
                "text": visible(table.token_texts[position]),
                "activation": effect.activations[position],
                "logprob": table.logprobs[position],
                "change": effect.changes[position],
            }
            for position in changed[:_MOST_CHANGED]
            if effect.changes[position] != 0
        ],
    }


def _told(table: EffectTable, effect: FeatureEffect, position: int) -> str:
    """What a token says of itself when it is pointed at."""
    return (
        f"token {position}: activation {effect.activations[position]:.3g}, "
        f"log-probability {table.logprobs[position]:.3f}, change when ablated {effect.changes[position]:+.3f}"
    )


def _share(value: float, largest: float) -> str:
    """How deep a shade is, as CSS takes it."""
    return f"{min(value / largest, 1.0):.2f}" if largest > 0 and value > 0 else "0"
