"""A probe's text as a study: steered beside the engine's steps, and scored from its last rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.selftest.probes import Probe


class StudiedProbe:
    """The study of one probe; its result is the log-probabilities [continuation], float64."""

    def __init__(self, forward: SteeredForward, host: HostModel, probe: Probe) -> None:
        self._forward = forward
        self._host = host
        self._probe = probe
        self._rows: list[Tensor] = []

    def run(self) -> Iterator[Progress]:
        """One forward."""
        probe, last = self._probe, HookPoint(self._host.num_layers - 1, "resid_post")
        text = SteeredText(
            prompt_ids=probe.prompt_ids,
            continuation=probe.continuation[:-1],
            steering=probe.steering,
        )
        self._forward.run([text], after={last: lambda rows: self._rows.append(rows.clone())})
        yield Progress(1, 1, "texts")

    def result(self) -> Tensor:
        """How likely the continuation is; asked once it has run."""
        logits = self._host.unembed(self._rows[0][len(self._probe.prompt_ids) - 1 :])
        chosen = torch.tensor(self._probe.continuation, device=logits.device).unsqueeze(1)
        return logits.log_softmax(dim=-1).gather(1, chosen).squeeze(1).double().cpu()
