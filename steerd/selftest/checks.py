"""The checks: an engine against the plain host, and an engine against itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from math import inf

import torch
from torch import Tensor

from steerd.engine.engine import Engine
from steerd.host.host_model import HostModel
from steerd.selftest.engine_client import EngineClient, Scored
from steerd.selftest.gaps import fired_gap, receipt_gap
from steerd.selftest.probe_set import ProbeSet
from steerd.selftest.probes import Probe
from steerd.selftest.references import References
from steerd.selftest.report import Finding, Status
from steerd.selftest.studied_probe import StudiedProbe
from steerd.steering.receipt import SwitchReceipt
from steerd.steering.scope import Phase, Scope

# Rows are summed in another order in a batch of another shape. In 16 bits now and then a row comes out far
# off, so there half of the rows do not count.
_BOUND = 2e-3
_BOUND_IN_16_BITS = 0.1

_GENERATED = 10
_BITWISE_GENERATED = 8


class Checks:
    """Asks one engine and compares. Gaps are between log-probabilities, in nats, where not said otherwise."""

    def __init__(
        self, engine: Engine, probes: ProbeSet, references: References, *, at_once: int, host: HostModel
    ) -> None:
        """`at_once` requests run together."""
        self._host = host
        self._engine = engine
        self._forward = engine.steered_forward()
        self._client = EngineClient(engine, at_once)
        self._at_once = at_once
        self._probes = probes
        self._shared = [probes.plain, *probes.steered]
        self._references = references
        self._in_16_bits = host.dtype.itemsize <= 2
        self._alone_by_name: dict[str, Scored] = {}

    def steered_is_reference(self) -> Finding:
        """Each intervention alone, against the naive hook's."""
        plain, probes = self._references[self._probes.plain].logprobs, self._probes.steered
        effects = {probe.name: _largest(self._references[probe].logprobs - plain) for probe in probes}
        weakest = min(effects, key=effects.__getitem__)
        remark = f"steering moves the text by {effects[weakest]:.2g} or more"
        return self._judged(self._from_reference(probes, _logprobs(self._alone(probes))), remark)

    def receipt_is_reference(self) -> Finding:
        """What each intervention alone is said to have done, against what the naive hook did: in shares."""
        probes = [*self._probes.steered, self._probes.triggered[0]]
        gaps = {}
        for probe, got in zip(probes, self._alone(probes), strict=True):
            expected = self._references[probe]
            gaps[probe.name] = receipt_gap(got.receipt, expected.receipt, expected.lengths)
        return self._judged(gaps)

    def fired_is_reference(self) -> Finding:
        """What fires on the text, against the naive hook's readings: the share of firings that differ."""
        probes = self._probes.triggered
        expected = {probe.name: self._references[probe].fired for probe in probes}
        pairs = zip(expected.items(), self._alone(probes), strict=True)
        gaps = {name: fired_gap(got.fired, got.receipt, fired) for (name, fired), got in pairs}
        return self._judged(gaps, f"{sum(map(len, expected.values()))} firings")

    def switched_is_scoped(self) -> Finding:
        """What was generated after a switch, scored under edits whose scopes come to the same."""
        switched, as_if = self._probes.switched
        reference = self._from_reference([as_if], _logprobs(self._alone([as_if])))
        (generated,) = self._client.generate([switched], _GENERATED)
        expected = SwitchReceipt("selftest@1", len(switched.prompt_ids))
        if generated.receipt.switched != expected:
            return Finding(Status.FAILED, inf, None, f"{generated.receipt.switched} for {expected}")
        (scored,) = self._client.score([replace(as_if, continuation=generated.token_ids)])
        return self._judged({**reference, switched.name: generated.logprobs - scored.logprobs})

    def unsteered_is_plain(self) -> Finding:
        """Without steering, against the plain host."""
        probes = [self._probes.plain]
        return self._judged(self._from_reference(probes, _logprobs(self._alone(probes))))

    def studied_is_reference(self) -> Finding:
        """Each intervention on a study's whole forward, against the naive hook's."""
        found = self._client.study([StudiedProbe(self._forward, self._host, probe) for probe in self._shared])
        return self._judged(self._from_reference(self._shared, found))

    def batched_is_alone(self) -> Finding:
        """Beside each other and requests steered hard, against alone."""
        return self._judged(self._gaps(_logprobs(self._together), _logprobs(self._alone(self._shared))))

    def order_is_nothing(self) -> Finding:
        """The same requests in one order and in the other."""
        backwards = self._client.score([*self._shared, *self._probes.neighbours][::-1])[::-1]
        return self._judged(self._gaps(_logprobs(self._together), _logprobs(backwards)))

    def cached_is_uncached(self) -> Finding:
        """What was generated token by token, scored as a whole text."""
        return self._judged(self._generated_and_scored(self._shared))

    def graph_is_eager(self) -> Finding:
        """What was generated in recorded steps beside neighbours, scored in steps that never are."""
        if why_no_graphs := self._engine.why_no_graphs:
            return Finding(Status.SKIPPED, None, None, why_no_graphs)
        before = self._engine.steps_replayed
        gaps = self._generated_and_scored(self._probes.recordable, self._probes.neighbours)
        replayed = self._engine.steps_replayed - before
        if not replayed:
            return Finding(Status.WARNING, None, None, "no step was run from a recording")
        return self._judged(gaps, f"{replayed} steps run from recordings")

    def lengths_are_nothing(self) -> Finding:
        """Prompts of one token and around a page side by side, against the naive hook's."""
        probes = self._probes.lengths
        return self._judged(self._from_reference(probes, _logprobs(self._client.score(probes))))

    def shared_is_own(self) -> Finding:
        """Prompts that begin alike, one after the other and again, against the naive hook's."""
        probes = self._probes.sharing
        why_no_sharing = self._engine.why_no_sharing
        if why_no_sharing or not probes:
            return Finding(Status.SKIPPED, None, None, why_no_sharing or "no prompt fills a page")
        own = [self._client.score([probe])[0] for probe in probes]
        before = self._client.tokens_taken_over
        shared = [self._client.score([probe])[0] for probe in probes]
        taken_over = self._client.tokens_taken_over - before
        if not taken_over:
            return Finding(Status.FAILED, None, None, "no prompt took anything over")
        gaps = [self._from_reference(probes, _logprobs(each)) for each in (own, shared)]
        both = {name: torch.cat([gap[name] for gap in gaps]) for name in gaps[0]}
        return self._judged(both, f"{taken_over} tokens taken over")

    def chunked_is_whole(self) -> Finding:
        """For an engine of small steps, which cut the texts, against the naive hook's."""
        scored = self._client.score(self._shared)
        return self._judged(self._from_reference(self._shared, _logprobs(scored)))

    def no_op_is_nothing(self) -> Finding:
        """Interventions in whose scope no row is change no bit, beside the same neighbours."""
        plain, neighbours = self._probes.plain, self._probes.neighbours[: self._at_once - 1]
        nowhere = Scope(phase=Phase.PROMPT, token_ids=frozenset([_absent(plain.prompt_ids)]))
        edits = [
            replace(edit, scope=nowhere) for probe in self._probes.steered for edit in probe.interventions
        ]
        first, second = (
            self._client.generate([probe, *neighbours], _BITWISE_GENERATED)[0]
            for probe in (plain, replace(plain, interventions=tuple(edits)))
        )
        worst = _largest(first.logprobs - second.logprobs) if first.token_ids == second.token_ids else inf
        status = Status.PASSED if worst == 0.0 else Status.FAILED
        return Finding(status, worst, 0.0, f"{len(edits)} interventions on no row")

    @cached_property
    def _together(self) -> list[Scored]:
        """The shared probes and neighbours, side by side."""
        return self._client.score([*self._shared, *self._probes.neighbours])

    def _alone(self, probes: Sequence[Probe]) -> list[Scored]:
        for probe in probes:
            if probe.name not in self._alone_by_name:
                self._alone_by_name[probe.name] = self._client.score([probe])[0]
        return [self._alone_by_name[probe.name] for probe in probes]

    def _generated_and_scored(
        self, probes: Sequence[Probe], beside: Sequence[Probe] = ()
    ) -> dict[str, Tensor]:
        """What is generated token by token, beside others, against its score as a whole text."""
        generated = self._client.generate([*probes, *beside], _GENERATED)[: len(probes)]
        pairs = list(zip(probes, generated, strict=True))
        scored = self._client.score([replace(probe, continuation=got.token_ids) for probe, got in pairs])
        return {
            probe.name: got.logprobs - own.logprobs for (probe, got), own in zip(pairs, scored, strict=True)
        }

    def _from_reference(self, probes: Sequence[Probe], got: Sequence[Tensor]) -> dict[str, Tensor]:
        pairs = zip(probes, got, strict=True)
        return {probe.name: logprobs - self._references[probe].logprobs for probe, logprobs in pairs}

    def _gaps(self, got: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, Tensor]:
        """By shared probe; what neighbours got is left out."""
        pairs = zip(self._shared, got, expected, strict=False)
        return {probe.name: one - other for probe, one, other in pairs}

    def _judged(self, gaps: Mapping[str, Tensor], remark: str = "") -> Finding:
        bound = _BOUND_IN_16_BITS if self._in_16_bits else _BOUND
        worst = {probe: self._worst(gap) for probe, gap in gaps.items()}
        failed = [probe for probe, figure in worst.items() if not figure <= bound]
        status = Status.FAILED if failed else Status.PASSED
        return Finding(status, max(worst.values()), bound, ", ".join(failed) or remark)

    def _worst(self, gap: Tensor) -> float:
        return float(gap.abs().nan_to_num(nan=inf).median()) if self._in_16_bits else _largest(gap)


def _logprobs(scored: Sequence[Scored]) -> list[Tensor]:
    return [each.logprobs for each in scored]


def _largest(gap: Tensor) -> float:
    return float(gap.abs().nan_to_num(nan=inf).max())


def _absent(ids: Sequence[int]) -> int:
    """An id that is not among these."""
    return next(number for number in count() if number not in ids)
