"""A steered request and its baseline: the same request unsteered, run beside it, told in one stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from steerd.engine.events import (
    BaselineEvent,
    BaselineOutcome,
    DivergenceEvent,
    FailedEvent,
    FinishedEvent,
    StreamEvent,
    TokenEvent,
)
from steerd.engine.request import Capture, GenerationRequest

_MARK = "~"  # no client's id has it


def baseline_of(request: GenerationRequest) -> GenerationRequest:
    """The same request, seed included, without steering; nothing is read of it."""
    return replace(
        request,
        id=request.id + _MARK,
        steering=request.steering.unsteered(),
        capture=Capture(),
        baseline=False,
    )


class Twins:
    """What is known of both, and the one stream that tells it. Used by the engine thread.

    Both draw with the same numbers, so what differs between them is the steering's doing. The stream ends
    when both have; the failure of one is the failure of both.
    """

    def __init__(self, deliver: Callable[[StreamEvent], None]) -> None:
        self._deliver = deliver
        self._token_ids: dict[bool, list[int]] = {False: [], True: []}  # by whether it is the baseline
        self._finished: dict[bool, FinishedEvent] = {}
        self._ahead: dict[int, Tensor] = {}  # log-softmax [vocab] by position, of the one that is ahead
        self._divergences: dict[int, float] = {}
        self._first_position: int | None = None
        self._failed = False

    def tell_steered(self, event: StreamEvent) -> None:
        """Pass an event of the steered request on."""
        self._tell(event, is_baseline=False)

    def tell_baseline(self, event: StreamEvent) -> None:
        """Pass what matters of the baseline on: its tokens and its end."""
        self._tell(event, is_baseline=True)

    def compare(self, logits: Tensor, position: int, *, is_baseline: bool) -> None:
        """Take the logits [vocab] that a token at a position is chosen from; tell when both are there."""
        other = self._ahead.pop(position, None)
        if other is not None:
            mine = logits.log_softmax(dim=-1)
            steered, plain = (other, mine) if is_baseline else (mine, other)
            self._divergences[position] = float((steered.exp() * (steered - plain)).nan_to_num(0.0).sum())
            self._deliver(DivergenceEvent(position, self._divergences[position]))
        elif (not is_baseline) not in self._finished:  # the other will come to this position
            self._ahead[position] = logits.log_softmax(dim=-1)

    def _tell(self, event: StreamEvent, *, is_baseline: bool) -> None:
        match event:
            case _ if self._failed:
                pass
            case FailedEvent():
                self._failed = True
                self._deliver(event)
            case FinishedEvent():
                self._finished[is_baseline] = event
                if len(self._finished) == 2:
                    self._deliver(replace(self._finished[False], baseline=self._outcome()))
            case TokenEvent():
                self._token_ids[is_baseline].append(event.token_id)
                if self._first_position is None:
                    self._first_position = event.position
                self._deliver(BaselineEvent(event) if is_baseline else event)
            case _ if not is_baseline:
                self._deliver(event)

    def _outcome(self) -> BaselineOutcome:
        finished, parts_at = self._finished[True], self._first_diverging_position()
        alike = [kl for position, kl in self._divergences.items() if parts_at is None or position <= parts_at]
        return BaselineOutcome(
            reason=finished.reason,
            prompt_tokens=finished.prompt_tokens,
            generated_tokens=finished.generated_tokens,
            cached_prompt_tokens=finished.cached_prompt_tokens,
            first_diverging_position=parts_at,
            mean_kl=sum(alike) / max(len(alike), 1),
        )

    def _first_diverging_position(self) -> int | None:
        pairs = zip(self._token_ids[False], self._token_ids[True], strict=False)
        parted = [index for index, (steered, plain) in enumerate(pairs) if steered != plain]
        if not parted or self._first_position is None:
            return None
        return self._first_position + parted[0]
