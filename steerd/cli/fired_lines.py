"""What is told of triggers that fired."""

from __future__ import annotations

from collections.abc import Iterator

from steerd.client_messages import Firing
from steerd.steering.intervention import FeatureRef
from steerd.steering.receipt import Receipt
from steerd.steering.trigger import Trigger


def fired_line(fired: tuple[Firing, ...], triggers: tuple[Trigger, ...], texts: dict[int, str]) -> str:
    """Where each feature fired: starter-14:1234 at ' cat' (12), ' dog' (15)."""
    parts = []
    for trigger in triggers:
        (test,) = trigger.condition.tests
        assert isinstance(test.target, FeatureRef)  # the command line knows no directions
        places = [
            f"{texts[firing.position]!r} ({firing.position})"
            if firing.position in texts
            else f"position {firing.position}"
            for firing in fired
            if firing.trigger == trigger.name
        ]
        if places:
            parts.append(f"{test.target.sae}:{test.target.index} at {', '.join(places)}")
    return f"fired: {'; '.join(parts)}"


def receipt_lines(receipt: Receipt) -> Iterator[str]:
    """What fired of presets and policies, and what was switched to, a line each."""
    for part in receipt.fired:
        if part.source:
            kind, _, named = part.source.partition(":")
            times = "once" if part.times == 1 else f"{part.times} times, first"
            place = f"{times} at position {part.first_position}"
            yield f"fired: {part.name} of {kind} {named}, to {part.action}, {place}"
    if receipt.switched is not None:
        yield f"switched to {receipt.switched.preset} from position {receipt.switched.first_position} on"
