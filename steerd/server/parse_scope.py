"""Scopes and schedules of interventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.violations import Violations
from steerd.steering.scope import Phase, PositionRange, Schedule, Scope

MAX_HALF_LIFE = 1e6

_PHASES = {
    pb.PHASE_UNSPECIFIED: Phase.ALL,
    pb.PHASE_ALL: Phase.ALL,
    pb.PHASE_PROMPT: Phase.PROMPT,
    pb.PHASE_GENERATED: Phase.GENERATED,
}


@dataclass(frozen=True, slots=True)
class ScopeParser:
    """Parses one request's scopes and schedules, recording every broken rule."""

    vocab_size: int
    has_roles: bool
    limits: LimitsConfig
    violations: Violations

    def scope(self, message: pb.Scope, field: str) -> Scope:
        """The rows that are meant; meaningless once a violation was recorded."""
        violations = self.violations
        if message.phase not in _PHASES:
            violations.must(False, f"{field}.phase", f"one of {', '.join(pb.Phase.keys())}", message.phase)
        phase = _PHASES.get(message.phase, Phase.ALL)
        if message.last_n and phase is not Phase.PROMPT:
            violations.add(f"{field}.last_n", "needs the scope's phase to be PHASE_PROMPT")
        if message.roles and not self.has_roles:
            violations.add(f"{field}.roles", "needs the request's input to be chat")
        if not self._fits(message, field):
            return Scope()
        for place, role in enumerate(message.roles):
            violations.must_not_be_empty(f"{field}.roles[{place}]", role)
        return Scope(
            phase=phase,
            include_special_tokens=message.include_special_tokens,
            first_n=message.first_n,
            last_n=message.last_n,
            positions=self._positions(message.positions, f"{field}.positions"),
            token_ids=self._token_ids(message.token_ids, f"{field}.token_ids"),
            excluded_token_ids=self._token_ids(message.excluded_token_ids, f"{field}.excluded_token_ids"),
            roles=tuple(dict.fromkeys(message.roles)),
        )

    def schedule(self, message: pb.Schedule, field: str) -> Schedule:
        """The strength over time; meaningless once a violation was recorded."""
        self.violations.must_be_between(f"{field}.half_life", message.half_life, 0, MAX_HALF_LIFE)
        return Schedule(
            start_after=message.start_after,
            ramp=message.ramp,
            half_life=message.half_life,
            at_most=message.at_most,
        )

    def _fits(self, message: pb.Scope, field: str) -> bool:
        lists = (message.positions, message.token_ids, message.excluded_token_ids, message.roles)
        limit = self.limits.max_scope_items
        what = "positions, token ids and roles together"
        return self.violations.must_be_at_most(field, sum(map(len, lists)), limit, what)

    def _positions(self, messages: Sequence[pb.PositionRange], field: str) -> tuple[PositionRange, ...]:
        stretches = []
        for place, message in enumerate(messages):
            end = message.end if message.HasField("end") else None
            if end is not None and (message.start < 0) == (end < 0):
                bound = f"above its start, {message.start}"
                self.violations.must(end > message.start, f"{field}[{place}].end", bound, end)
            stretches.append(PositionRange(message.start, end))
        return tuple(stretches)

    def _token_ids(self, ids: Sequence[int], field: str) -> frozenset[int]:
        bound = f"below the vocabulary size, {self.vocab_size}"
        for place, token_id in enumerate(ids):
            if not self.violations.must(token_id < self.vocab_size, f"{field}[{place}]", bound, token_id):
                break  # one is enough to see what is wrong
        return frozenset(ids)
