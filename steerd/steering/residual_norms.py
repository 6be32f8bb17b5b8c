"""How long a host's rows usually are at a hook point: what strengths and doses are measured against."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel

_MOST_TOKENS = 256

# Plain English of several kinds, long enough for any tokenizer that knows English words.
ORDINARY_TEXT = """\
The harbour was quiet when the first boats came in. Gulls circled above the pier, and somebody was already \
hosing down the boxes in which the morning's catch would be sold. "You are late," said the old man without \
looking up. She laughed, put down her bag and began to count: twelve crates of herring, three of mackerel, \
one of crab.

Water boils at 100 degrees Celsius at sea level, but on a high mountain it boils sooner, because the air \
presses less on it. That is why rice takes longer to cook there. A pressure cooker does the opposite: it \
keeps the steam in, so that the water grows hotter before it boils.

To bake a simple bread you need 500 grams of flour, 350 millilitres of water, 10 grams of salt and a little \
yeast. Mix everything, let the dough rest overnight, fold it twice in the morning and bake it in a very hot \
oven for about forty minutes. What could go wrong? Mostly the waiting.

In 1869 Dmitri Mendeleev published a table of the known elements. He left gaps in it, and said what would be \
found there; within twenty years gallium, scandium and germanium had filled three of them. Good theories do \
not only explain what we have seen. They tell us where to look next, and they are not afraid of being wrong.
"""


def median_norms(host: HostModel, hook_points: Collection[HookPoint]) -> dict[HookPoint, float]:
    """The median length of the rows of an ordinary text at each hook point, by one forward of the host.

    Special tokens and the very first token, whose rows are unlike all others, do not count.
    """
    ids = host.tokenizer(ORDINARY_TEXT)["input_ids"][: min(_MOST_TOKENS, host.max_context)]
    ordinary = torch.tensor(
        [number > 0 and id_ not in host.special_token_ids for number, id_ in enumerate(ids)]
    )
    found: dict[HookPoint, float] = {}

    def measure(hook_point: HookPoint, rows: Tensor) -> None:
        found[hook_point] = float(rows.float().norm(dim=1).cpu()[ordinary].median())

    handles = [host.attach(point, partial(measure, point)) for point in hook_points]
    try:
        host.activations(torch.tensor([ids]), None, [HookPoint(host.num_layers - 1, "resid_post")])
    finally:
        for handle in handles:
            handle.remove()
    return found
