"""Random requests over all that an intervention can be: operations, targets, scopes, conditions and so on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from steerd.engine.request import Capture, GenerationRequest
from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    Direction,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    Target,
    WholeSae,
    unit_direction,
)
from steerd.steering.scope import Phase, PositionRange, RoleSpan, Schedule, Scope
from steerd.steering.steering import Steering
from steerd.steering.trigger import Flag, Stop, Switch, Trigger
from tests.engine.requests import sampling

# A point where an SAE reads, and one where none does.
DIRECTION_POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")


class RandomRequests:
    """Requests for a host of this width and SAEs at these hook points, the same for the same seed."""

    def __init__(
        self, seed: int, saes: Mapping[str, HookPoint], d_sae: int, d_model: int, strength: float
    ) -> None:
        self._chance = random.Random(seed)
        self._saes = saes
        self._d_sae = d_sae
        self._d_model = d_model
        self._strength = strength

    def make(self, request_id: str, prompt: Sequence[int], num_new: int) -> GenerationRequest:
        """One request, with up to six interventions."""
        chance = self._chance
        own, triggers = self._interventions(prompt), self._triggers(prompt)
        brought = [intervention for trigger in triggers for intervention in trigger.brings]
        cut = sorted(chance.randrange(len(prompt) + 1) for _ in range(4))
        temperature = chance.choice([0.0, 0.0, 1.0])
        return GenerationRequest(
            id=request_id,
            prompt_ids=tuple(prompt),
            sampling=sampling(num_new, temperature=temperature, seed=chance.randrange(100)),
            steering=Steering(
                interventions=(*own, *self._demanded([*own, *brought], prompt)),
                triggers=triggers,
                roles=(RoleSpan("system", *cut[:2]), RoleSpan("user", *cut[2:])),
            ),
            capture=self._capture(),
        )

    def _interventions(self, prompt: Sequence[int]) -> tuple[Intervention, ...]:
        chance = self._chance
        edited: dict[Target, Intervention] = {}
        for _ in range(chance.randint(0, 6)):
            intervention = self._intervention(prompt)
            edited.setdefault(intervention.target, intervention)
        more = [
            self._with_scope(edit.target, Add(chance.uniform(-1, 1) * self._strength), prompt)
            for edit in edited.values()
            if isinstance(edit.operation, Add) and chance.random() < 0.5
        ]
        return (*edited.values(), *more)

    def _demanded(self, asked: Sequence[Intervention], prompt: Sequence[int]) -> list[Intervention]:
        """What policies might demand: edits of targets that the request leaves alone, at full strength."""
        taken = {intervention.target for intervention in asked}
        found = [self._intervention(prompt) for _ in range(self._chance.choice([0, 1, 3]))]
        by_target = {edit.target: edit for edit in found if edit.target not in taken}
        return [
            Intervention(target=edit.target, operation=edit.operation, scope=edit.scope, source="policy:p@1")
            for edit in by_target.values()
        ]

    def _triggers(self, prompt: Sequence[int]) -> tuple[Trigger, ...]:
        chance, triggers = self._chance, []
        for number in range(chance.choice([0, 0, 1, 3])):
            action: Stop | Flag | Switch = Flag()
            if chance.random() < 0.2:
                action = Stop()
            elif chance.random() < 0.6:
                action = Switch("preset", self._interventions(prompt))
            triggers.append(Trigger(f"trigger-{number}", self._condition(), action))
        return tuple(triggers)

    def _intervention(self, prompt: Sequence[int]) -> Intervention:
        chance, strength = self._chance, self._strength
        if chance.random() < 0.1:
            return self._with_scope(WholeSae(chance.choice(list(self._saes))), Reconstruct(), prompt)
        target = self._target()
        operations: list[Operation] = [
            Add(chance.uniform(-1, 1) * strength),
            Set(chance.uniform(0, 2) * strength, only_if_active=chance.random() < 0.5),
            Scale(chance.uniform(-1, 3)),
            Ablate(),
            Limit(low=0.3 * strength),
            Limit(high=0.2 * strength),
            Limit(-0.1 * strength, 0.5 * strength),
        ]
        return self._with_scope(target, chance.choice(operations), prompt)

    def _with_scope(self, target: Target, operation: Operation, prompt: Sequence[int]) -> Intervention:
        return Intervention(
            target=target,
            operation=operation,
            scope=self._scope(prompt),
            schedule=self._schedule(),
            condition=self._condition(target) if self._chance.random() < 0.4 else None,
            preserve_norm=self._chance.random() < 0.2,
        )

    def _condition(self, target: Target | None = None) -> Condition:
        """Tests at the hook point of the target or before it; anywhere without a target."""
        sizes = [self._chance.randint(1, 2) for _ in range(self._chance.randint(1, 3))]
        return Condition(tuple(tuple(self._test(target) for _ in range(size)) for size in sizes))

    def _test(self, target: Target | None) -> FeatureTest:
        chance = self._chance
        tested = self._target()
        while target is not None and not self._hook_point(target).follows(self._hook_point(tested)):
            tested = self._target()
        above = chance.uniform(-0.4, 0.4) * self._strength
        return FeatureTest(
            target=tested,
            above=above,
            release_below=chance.choice([above, above - self._strength, -inf]),
            include_special_tokens=chance.random() < 0.3,
        )

    def _target(self) -> FeatureRef | Direction:
        chance = self._chance
        if chance.random() < 0.3:
            values = [chance.gauss(0, 1) for _ in range(self._d_model)]
            return unit_direction(chance.choice(DIRECTION_POINTS), values)
        return FeatureRef(chance.choice(list(self._saes)), chance.randrange(self._d_sae))

    def _hook_point(self, target: Target) -> HookPoint:
        if isinstance(target, Direction):
            return HookPoint.parse(target.hook_point)
        return self._saes[target.sae]

    def _scope(self, prompt: Sequence[int]) -> Scope:
        chance = self._chance
        phase = chance.choice(list(Phase))
        choices: list[tuple[float, dict[str, Any]]] = [
            (0.5, {"include_special_tokens": True}),
            (0.15, {"first_n": chance.randint(1, 8)}),
            (0.15, {"positions": (PositionRange(chance.randint(-6, 3), chance.choice([None, 9])),)}),
            (0.15, {"token_ids": frozenset(prompt[::2])}),
            (0.15, {"excluded_token_ids": frozenset(prompt[::3])}),
            (0.15, {"roles": (chance.choice(["system", "user", "assistant"]),)}),
        ]
        if phase is Phase.PROMPT:
            choices.append((0.3, {"last_n": chance.randint(1, 8)}))
        fields: dict[str, Any] = {"phase": phase}
        for likely, choice in choices:
            if chance.random() < likely:
                fields |= choice
        return Scope(**fields)

    def _schedule(self) -> Schedule:
        chance = self._chance
        if chance.random() < 0.6:
            return Schedule()
        return Schedule(
            start_after=chance.choice([0, 2]),
            ramp=chance.choice([0, 4]),
            half_life=chance.choice([0.0, 5.0]),
            at_most=chance.choice([0, 3]),
        )

    def _capture(self) -> Capture:
        watch = tuple(FeatureRef(sae, self._chance.randrange(self._d_sae)) for sae in self._saes)
        capture = Capture(watch=watch, include_prompt=True, after_edit=watch[0].index % 2 == 0)
        return capture if self._chance.random() < 0.7 else Capture()
