"""What leaves the host's last layer when whole texts are steered, and the logits that it makes of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.known_streams import KnownStreams
from steerd.steering.receipt import Receipt

_ROWS_AT_ONCE = 64  # through the head: a slice


class LastRows:
    """Runs texts with the steering of requests, for studies on the engine's thread."""

    def __init__(self, forward: SteeredForward, host: HostModel) -> None:
        self._forward = forward
        self._host = host
        self._streams = KnownStreams(host)
        self._point = HookPoint(host.num_layers - 1, "resid_post")

    def of(self, texts: Sequence[SteeredText]) -> Tensor:
        """Rows [texts, tokens, d_model] of texts of one length."""
        found: list[Tensor] = []
        after = {self._point: lambda rows: found.append(rows.clone())}
        self._forward.run(texts, after=after, streams=self._streams)
        return found[0].view(len(texts), -1, found[0].shape[-1])

    def receipt(self, text: SteeredText) -> Receipt:
        """What the steering of a text does."""
        return self._forward.run([text])[0]

    def logits(self, rows: Tensor) -> Iterator[Tensor]:
        """Of rows [rows, d_model] some at a time, [some, vocab] in float32: a slice each."""
        for part in torch.split(rows, _ROWS_AT_ONCE):
            yield self._host.unembed(part)

    def num_slices(self, num_rows: int) -> int:
        """How many slices the logits of so many rows take."""
        return -(-num_rows // _ROWS_AT_ONCE)
