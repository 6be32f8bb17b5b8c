"""A ScoreRequest -> one engine request for each continuation, and as many again for the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.engine.request import GenerationRequest, SamplingParams
from steerd.engine.twins import baseline_of
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.parse import RequestParser, check_request_id
from steerd.server.parse_prompt import PromptParser
from steerd.server.violations import Violations

# A scored text chooses nothing.
_NO_SAMPLING = SamplingParams(max_new_tokens=1, temperature=0.0, top_p=1.0, top_k=0, seed=0)


@dataclass(frozen=True, slots=True)
class ParsedScore:
    """The engine's requests, one a continuation, and the same unsteered if a baseline is wanted."""

    steered: tuple[GenerationRequest, ...]
    baselines: tuple[GenerationRequest, ...]


@dataclass(frozen=True, slots=True)
class ScoreParser:
    """Parses ScoreRequests by the rules of Generate for all that they share."""

    requests: RequestParser

    def parse(self, message: pb.ScoreRequest, request_id: str, traceparent: str | None = None) -> ParsedScore:
        """The requests, with ids made from the given one.

        Raises InvalidRequest with every broken rule, or NotFound when all that is wrong is an unknown name.
        """
        violations = Violations()
        check_request_id(message.request_id, violations)
        prompts = PromptParser(self.requests.host, self.requests.limits, violations)
        has_input = message.WhichOneof("input") is not None
        prompt_ids = prompts.prompt_ids(message) if has_input else ()
        texts = self._continuations(message.continuations, prompts, prompt_ids or (), has_input, violations)
        steering = self.requests.steering.steering(message, message, prompts, prompt_ids, violations)
        capture = self.requests.capture_of(message, violations)
        violations.raise_if_any()
        rows = [(context, len(scored) - 1) for context, scored in texts]  # the last one is never read
        steering = self.requests.with_idle(steering, rows)
        plan_hash = self.requests.plan_hash(steering)
        steered = tuple(
            GenerationRequest(
                id=f"{request_id}.{number}",
                prompt_ids=context,
                sampling=_NO_SAMPLING,
                steering=steering,
                plan_hash=plan_hash,
                capture=capture,
                continuation=scored,
                is_chat=message.HasField("chat"),
                traceparent=traceparent,
            )
            for number, (context, scored) in enumerate(texts)
        )
        unsteered = tuple(baseline_of(request) for request in steered) if message.baseline else ()
        return ParsedScore(steered, unsteered)

    def _continuations(
        self,
        messages: Sequence[pb.Continuation],
        prompts: PromptParser,
        prompt_ids: tuple[int, ...],
        has_input: bool,
        violations: Violations,
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Of each, the ids that it is given and those to score."""
        limits = self.requests.limits
        violations.must_not_be_empty("continuations", messages)
        characters = sum(len(message.text) for message in messages)
        if not (
            violations.must_be_at_most(
                "continuations", len(messages), limits.max_continuations, "continuations"
            )
            and violations.must_be_at_most(
                "continuations", characters, limits.max_prompt_characters, "characters"
            )
        ):
            return []
        found = []
        for number, message in enumerate(messages):
            field = f"continuations[{number}]"
            ids = prompts.continuation_ids(message, field)
            if ids is None or not self._fits(len(prompt_ids) + len(ids), field, violations):
                continue
            if has_input:
                found.append((prompt_ids, ids))
            elif violations.must(
                len(ids) > 1, field, "of at least 2 tokens when there is no input", len(ids)
            ):
                found.append((ids[:1], ids[1:]))
        return found

    def _fits(self, tokens: int, field: str, violations: Violations) -> bool:
        limit = self.requests.host.max_context
        return violations.must_be_at_most(field, tokens, limit, "tokens with the input, the host's context")
