"""What leaves the layers of texts that nothing edits: forwards of the same texts need not run these again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel

Ids = tuple[int, ...]


class KnownStreams:
    """Keeps them, [seq, d_model] a text and layer, as long as it lives itself."""

    def __init__(self, host: HostModel) -> None:
        self._host = host
        self._kept: dict[tuple[int, Ids], Tensor] = {}

    def begin(self, hook_points: Iterable[HookPoint], token_ids: Tensor) -> AbstractContextManager[None]:
        """Inside of the block that is returned, forwards of [texts, seq] ids begin before these hook points.

        No hook may edit rows, not even there, when this is called. Where the host does not allow it, or there
        is nothing to be left out, forwards begin where they always do.
        """
        before = min((hook_point.layers_before for hook_point in hook_points), default=0)
        if not before or not self._host.resumes_after(before - 1):
            return nullcontext()
        return self._host.resumed(before - 1, self._after(before - 1, token_ids))

    def _after(self, layer: int, token_ids: Tensor) -> Tensor:
        """What leaves a layer, [texts, seq, d_model]."""
        texts: list[Ids] = [tuple(ids) for ids in token_ids.tolist()]
        missing = [text for text in dict.fromkeys(texts) if (layer, text) not in self._kept]
        if missing:
            point = HookPoint(layer, "resid_post")
            with torch.inference_mode(False):  # gradients may be taken of what comes of it
                found = self._host.activations(torch.tensor(missing), None, [point])[point]
            self._kept.update(((layer, text), rows) for text, rows in zip(missing, found, strict=True))
        return torch.stack([self._kept[layer, text] for text in texts])
