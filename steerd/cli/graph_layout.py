"""Where the nodes of an attribution graph stand on a page: tokens from left to right, layers upwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.result import AttributedNode, Attribution, NodeKind

STEP = 22  # pixels from node to node
_ACROSS = 6  # nodes of one token and layer beside each other; more begin another line
_MARGIN, _GUTTER = 120, 26  # for the names of layers; between tokens
_LINE = 20
_CHARACTER = 7.2
_MOST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Band:
    """A named stretch, of a layer or of a token."""

    name: str
    start: float
    size: float

    @property
    def middle(self) -> float:
        return self.start + self.size / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in pixels: of each node by its place in the result, and of the metric."""

    width: float
    height: float
    tokens: Sequence[Band]
    layers: Sequence[Band]
    places: dict[int, tuple[float, float]]
    target: tuple[float, float]


def lay_out(found: Attribution, token_names: Sequence[str]) -> Layout:
    """Places for the nodes of the graph; tokens without any have no column, but for the last."""
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    levels = _levels(found)
    for place, node in enumerate(found.nodes):
        if node.influence is not None:
            cells[node.position, levels.index(_level(node))].append(place)
    columns = sorted({position for position, _ in cells} | {len(found.token_ids) - 1})
    tokens = _token_bands(columns, cells, token_names)
    layers = _layer_bands(levels, cells)
    places = {}
    for (position, level), members in cells.items():
        band, row = tokens[columns.index(position)], layers[level]
        for number, place in enumerate(members):
            line, across = divmod(number, _ACROSS)
            in_line = min(len(members) - line * _ACROSS, _ACROSS)
            places[place] = (
                band.middle + (across - (in_line - 1) / 2) * STEP,
                row.start + row.size - _LINE * (line + 0.5),
            )
    top = layers[-1]
    width = tokens[-1].start + tokens[-1].size + _GUTTER
    return Layout(
        width, layers[0].start + layers[0].size, tokens, layers, places, (tokens[-1].middle, top.middle)
    )


def _level(node: AttributedNode) -> str:
    return "embeddings" if node.kind is NodeKind.EMBEDDING else node.hook_point


def _levels(found: Attribution) -> list[str]:
    """From the bottom up."""
    points = {node.hook_point for node in found.nodes if node.kind is not NodeKind.EMBEDDING}
    return ["embeddings", *sorted(points, key=lambda text: HookPoint.parse(text)), "answer"]


def _token_bands(
    columns: Sequence[int], cells: dict[tuple[int, int], list[int]], token_names: Sequence[str]
) -> list[Band]:
    bands: list[Band] = []
    start: float = _MARGIN
    for position in columns:
        name = token_names[position][:_MOST_CHARACTERS]
        most = max(
            (min(len(members), _ACROSS) for (p, _), members in cells.items() if p == position), default=1
        )
        size = max(most * STEP, len(name) * _CHARACTER)
        bands.append(Band(name, start, size))
        start += size + _GUTTER
    return bands


def _layer_bands(levels: Sequence[str], cells: dict[tuple[int, int], list[int]]) -> list[Band]:
    """In the order of the levels, the last at the top of the page."""
    sizes = [
        _LINE
        * max((-(-len(members) // _ACROSS) for (_, at), members in cells.items() if at == level), default=1)
        for level in range(len(levels))
    ]
    bands: list[Band] = []
    start = 0.0
    for name, size in reversed(list(zip(levels, sizes, strict=True))):
        bands.append(Band(name, start + _LINE, size))
        start += size + 3 * _LINE
    return bands[::-1]
