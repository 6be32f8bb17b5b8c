"""Events -> wire: decodes text as it comes and merges what is ready into few messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from steerd.condition_wire import applied_trigger_message
from steerd.engine.events import (
    BaselineEvent,
    DivergenceEvent,
    FailedEvent,
    FeatureUse,
    FinishedEvent,
    FiredEvent,
    Firing,
    PromptEvent,
    StartedEvent,
    StreamEvent,
    TokenEvent,
    TokenReading,
)
from steerd.engine.request import GenerationRequest
from steerd.errors import Unavailable
from steerd.host.text import IncrementalDecoder
from steerd.intervention_wire import applied_message, named_message
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.receipt_wire import receipt_message
from steerd.server.reply_baseline import BaselineWriter, baseline_summary
from steerd.server.reply_finish import FINISH_REASONS, usage_of
from steerd.server.reply_reading import reading_message
from steerd.server.stop_text import StopText

# A message of this many activations takes about half a megabyte; the transport's limit is 4 MiB.
_MAX_VALUES_PER_DELTA = 1 << 16
_VALUES_OF_A_FIRING = 8  # as much room as these take


class ReplyWriter:
    """Writes the stream of one request, numbering its messages."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        tokenizer: PreTrainedTokenizerBase,
        model: str,
        stop: Sequence[str],
    ) -> None:
        self._request = request
        self._model = model
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._decoder = IncrementalDecoder(tokenizer, request.prompt_ids)
        self._stop_text = StopText(stop)
        self._baseline = BaselineWriter(tokenizer, request.prompt_ids, stop)
        self._sequence = 0
        self._values = 0  # activations in the delta being written
        self.finished: FinishedEvent | None = None  # set with the last message

    def write(self, events: Iterable[StreamEvent]) -> Iterator[pb.GenerateResponse]:
        """The messages for events that are ready together; neighbouring tokens share a Delta.

        Raises, after what came before it, the error of a FailedEvent, or Unavailable when the engine gave up
        the request.
        """
        delta = pb.Delta()
        for event in events:
            match event:
                case StartedEvent():
                    yield self._numbered(started=self._started(event))
                case PromptEvent(readings):
                    yield from self._add_readings(delta, readings)
                case TokenEvent():
                    self._add_token(delta, event)
                    yield from self._add_readings(delta, event.readings)
                case FiredEvent(firings):
                    yield from self._add_firings(delta, firings)
                case BaselineEvent(token):
                    self._baseline.add_token(delta, token)
                case DivergenceEvent():
                    self._baseline.add_divergence(delta, event)
                case FinishedEvent() | FailedEvent():
                    yield from self._end(delta, event)
                    return
        yield from self._take(delta)

    def _started(self, event: StartedEvent) -> pb.Started:
        request, sampling, steering = self._request, self._request.sampling, self._request.steering
        return pb.Started(
            request_id=request.id,
            model=self._model,
            prompt_tokens=len(request.prompt_ids),
            queue_seconds=event.queue_seconds,
            sampling=pb.SamplingParams(
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=sampling.seed,
                stop=self._stop,
            ),
            interventions=[applied_message(intervention) for intervention in steering.numbered],
            presets=[named_message(preset) for preset in steering.presets],
            policies=[named_message(policy) for policy in steering.policies],
            triggers=[applied_trigger_message(trigger) for trigger in steering.triggers],
            warnings=steering.warnings,
            plan_hash=request.plan_hash,
            prompt_token_texts=self._prompt_token_texts() if request.capture.include_prompt else (),
        )

    def _prompt_token_texts(self) -> list[str]:
        return self._tokenizer.batch_decode([[token_id] for token_id in self._request.prompt_ids])

    def _add_token(self, delta: pb.Delta, event: TokenEvent) -> None:
        text = self._stop_text.push(self._decoder.push(event.token_id))
        delta.text += text
        delta.token_texts.append(text)
        delta.token_ids.append(event.token_id)
        delta.positions.append(event.position)
        delta.logprobs.append(event.logprob)

    def _add_readings(
        self, delta: pb.Delta, readings: Sequence[TokenReading]
    ) -> Iterator[pb.GenerateResponse]:
        """Add readings to the delta, sending it whenever it has become large."""
        for reading in readings:
            delta.readings.append(reading_message(reading))
            self._values += len(reading.values) + len(reading.values_after)
            if self._values >= _MAX_VALUES_PER_DELTA:
                yield from self._take(delta)

    def _add_firings(self, delta: pb.Delta, firings: Sequence[Firing]) -> Iterator[pb.GenerateResponse]:
        """Add firings to the delta, sending it whenever it has become large."""
        for firing in firings:
            delta.fired.add(trigger=firing.trigger, position=firing.position)
            self._values += _VALUES_OF_A_FIRING
            if self._values >= _MAX_VALUES_PER_DELTA:
                yield from self._take(delta)

    def _end(self, delta: pb.Delta, event: FinishedEvent | FailedEvent) -> Iterator[pb.GenerateResponse]:
        if isinstance(event, FailedEvent):
            yield from self._take(delta)
            raise event.error
        if event.reason not in FINISH_REASONS:
            yield from self._take(delta)
            raise Unavailable("the server gave up the request", reason="GIVEN_UP")
        delta.text += self._stop_text.push(self._decoder.flush()) + self._stop_text.flush()
        self._baseline.end(delta)
        yield from self._take(delta)
        self.finished = event
        yield self._numbered(completed=_completed(event, self._request.plan_hash))

    def _take(self, delta: pb.Delta) -> Iterator[pb.GenerateResponse]:
        """The delta as a message, if there is anything in it; it is empty afterwards."""
        if delta.ByteSize() > 0:
            yield self._numbered(delta=delta)
            delta.Clear()
            self._values = 0

    def _numbered(
        self,
        *,
        started: pb.Started | None = None,
        delta: pb.Delta | None = None,
        completed: pb.Completed | None = None,
    ) -> pb.GenerateResponse:
        response = pb.GenerateResponse(
            sequence=self._sequence, started=started, delta=delta, completed=completed
        )
        self._sequence += 1
        return response


def _completed(event: FinishedEvent, plan_hash: str) -> pb.Completed:
    timings = event.timings
    return pb.Completed(
        finish_reason=FINISH_REASONS[event.reason],
        usage=usage_of(event),
        timings=pb.Timings(
            queue_seconds=timings.queue_seconds,
            prefill_seconds=timings.prefill_seconds,
            decode_seconds=timings.decode_seconds,
        ),
        features=[_feature_summary(use) for use in event.features],
        receipt=receipt_message(event.receipt, plan_hash),
        baseline=None if event.baseline is None else baseline_summary(event.baseline),
    )


def _feature_summary(use: FeatureUse) -> pb.FeatureSummary:
    return pb.FeatureSummary(
        feature=feature_pb2.FeatureRef(sae=use.feature.sae, index=use.feature.index),
        max_activation=use.max_activation,
        mean_activation=use.mean_activation,
        active_tokens=use.active_tokens,
        steered_tokens=use.steered_tokens,
    )
