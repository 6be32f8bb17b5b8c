"""Wire -> GenerationRequest. Everything is checked here, once; what comes out cannot be wrong."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from steerd.config import LimitsConfig
from steerd.engine.request import Capture, GenerationRequest
from steerd.host.host_model import HostModel
from steerd.host.text import IncrementalDecoder, StopMatcher
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.idle_edits import Text, idle_warnings
from steerd.server.parse_capture import CaptureParser
from steerd.server.parse_prompt import InputMessage, PromptParser
from steerd.server.parse_sampling import SamplingParser
from steerd.server.parse_steering import SteeringParser
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.plan_hash import plan_hash
from steerd.steering.steering import Steering

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NamedMessage(Protocol):
    """A request that has an id."""

    @property
    def request_id(self) -> str: ...


def request_id_of(message: NamedMessage) -> str:
    """The client's id when it is well formed, otherwise a new one."""
    return message.request_id if _REQUEST_ID.fullmatch(message.request_id) else secrets.token_hex(8)


def check_request_id(request_id: str, violations: Violations) -> None:
    """Record a violation unless the id is empty or well formed."""
    if request_id:
        holds = _REQUEST_ID.fullmatch(request_id) is not None
        violations.must(holds, "request_id", f"of the form {_REQUEST_ID.pattern}", request_id)


@dataclass(frozen=True)
class RequestParser:
    """Parses requests for one host, its SAEs and the operator's limits; `steering` what steers them."""

    host: HostModel
    saes: LoadedSaes
    limits: LimitsConfig
    steering: SteeringParser

    def parse(
        self, message: pb.GenerateRequest, request_id: str, traceparent: str | None = None
    ) -> GenerationRequest:
        """The request under the given id, with every default filled in.

        Raises InvalidRequest with every broken rule, or NotFound when all that is wrong is an unknown name.
        """
        violations = Violations()
        check_request_id(message.request_id, violations)
        prompts = PromptParser(self.host, self.limits, violations)
        prompt_ids = prompts.prompt_ids(message)
        sampling_parser = SamplingParser(self.host.vocab_size, self.host.max_context, self.limits, violations)
        sampling = sampling_parser.sampling(message.sampling, len(prompt_ids or ()))
        stop = sampling_parser.stop(message.sampling)
        steering = self.steering.steering(message, message, prompts, prompt_ids, violations)
        capture = self.capture_of(message, violations)
        violations.raise_if_any()
        assert prompt_ids is not None  # otherwise a violation was recorded
        return GenerationRequest(
            id=request_id,
            prompt_ids=prompt_ids,
            sampling=sampling,
            steering=self.with_idle(steering, [(prompt_ids, sampling.max_new_tokens - 1)]),
            plan_hash=self.plan_hash(steering),
            capture=capture,
            make_stop=self._make_stop(prompt_ids, stop) if stop else None,
            baseline=message.baseline,
            is_chat=message.HasField("chat"),
            traceparent=traceparent,
        )

    def capture_of(self, message: InputMessage, violations: Violations) -> Capture:
        """What is read, recording every broken rule."""
        targets = TargetParser(self.host, self.saes, violations)
        return CaptureParser(self.saes, targets, self.limits, violations).capture(message.capture)

    def plan_hash(self, steering: Steering) -> str:
        """The hash of all that steers a request on this host."""
        return plan_hash(self.host.content_hash, steering, self.saes.identities)

    def with_idle(self, steering: Steering, texts: Sequence[Text]) -> Steering:
        """The steering, with warnings of what in it has no row in any of the texts."""
        idle = idle_warnings(steering, texts, self.host.special_token_ids)
        return replace(steering, warnings=(*steering.warnings, *idle))

    def _make_stop(
        self, prompt_ids: tuple[int, ...], stop: tuple[str, ...]
    ) -> Callable[[], Callable[[int], bool]]:
        return lambda: StopMatcher(IncrementalDecoder(self.host.tokenizer, prompt_ids), stop)
