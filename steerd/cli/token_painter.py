"""Generated text, each token coloured by the activation of one feature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.style import Style
from rich.text import Text

from steerd.client_messages import Delta, Reading, Token
from steerd.steering.intervention import FeatureRef


class TokenPainter:
    """Paints a stream as it comes: pale to deep orange, relative to the largest activation so far.

    A token is printed one token late: its reading comes with the token that it helped to make.
    """

    def __init__(self, feature: FeatureRef | None) -> None:
        self._feature = feature
        self._highest = 0.0
        self._waiting: Token | None = None

    def paint(self, delta: Delta) -> Iterator[Text]:
        """What can be printed after this delta."""
        values = activations(delta.readings, self._feature) if self._feature else {}
        for token in delta.tokens:
            yield from self._release(values)
            self._waiting = token
        if not delta.tokens and delta.text:
            yield from self.finish()
            yield Text(delta.text)

    def finish(self) -> Iterator[Text]:
        """The last token, which is never read."""
        yield from self._release({})

    def _release(self, values: dict[int, float]) -> Iterator[Text]:
        if self._waiting is None:
            return
        value = values.get(self._waiting.position, 0.0)
        self._highest = max(self._highest, value)
        yield Text(self._waiting.text, style=shade(value, self._highest))
        self._waiting = None


def painted(texts: Sequence[str], values: Sequence[float]) -> Text:
    """A whole context, relative to its own largest activation."""
    highest = max(values, default=0.0)
    return Text.assemble(*((text, shade(value, highest)) for text, value in zip(texts, values, strict=True)))


def painted_changes(texts: Sequence[str], changes: Sequence[float]) -> Text:
    """A whole text, blue where a change is below 0 and red where it is above, relative to the largest."""
    largest = max(map(abs, changes), default=0.0)
    pairs = zip(texts, changes, strict=True)
    return Text.assemble(*((text, change_shade(change, largest)) for text, change in pairs))


def shade(value: float, highest: float) -> Style:
    """No colour for an inactive feature, otherwise an orange that deepens up to `highest`."""
    if value <= 0.0 or highest <= 0.0:
        return Style.null()
    depth = min(value / highest, 1.0)
    red, green, blue = 255, round(240 - 120 * depth), round(220 - 200 * depth)
    return Style(color="black", bgcolor=f"#{red:02x}{green:02x}{blue:02x}")


def change_shade(change: float, largest: float) -> Style:
    """No colour for no change, otherwise a blue or a red that deepens up to `largest`."""
    depth = min(abs(change) / largest, 1.0) if largest > 0.0 else 0.0
    if round(depth, 2) == 0.0:
        return Style.null()
    faded, fading = round(245 - 125 * depth), round(235 - 75 * depth)
    colour = f"#{faded:02x}{fading:02x}ff" if change < 0 else f"#ff{fading - 60:02x}{faded:02x}"
    return Style(color="black", bgcolor=colour)


def activations(readings: Iterable[Reading], feature: FeatureRef) -> dict[int, float]:
    """One feature's activation by position, where it was read."""
    return {
        reading.position: reading.values[reading.features.index(feature.index)]
        for reading in readings
        if reading.sae == feature.sae and feature.index in reading.features
    }
