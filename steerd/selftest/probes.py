"""A question, to the plain host and to the engine alike: how likely is a text under some steering?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerd.engine.request import GenerationRequest, SamplingParams
from steerd.steering.intervention import Intervention
from steerd.steering.scope import RoleSpan
from steerd.steering.steering import Steering
from steerd.steering.trigger import Trigger


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt and the continuation to be scored; the rows of its ids count as generated ones.

    `roles` says where in the prompt messages stand.
    """

    name: str
    prompt_ids: tuple[int, ...]
    continuation: tuple[int, ...]
    interventions: tuple[Intervention, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    roles: tuple[RoleSpan, ...] = ()

    @property
    def steering(self) -> Steering:
        """What steers it."""
        return Steering(interventions=self.interventions, triggers=self.triggers, roles=self.roles)

    @property
    def row_ids(self) -> tuple[int, ...]:
        """The ids whose rows are run: nothing is asked of what follows the last one."""
        return (*self.prompt_ids, *self.continuation[:-1])

    def to_score(self) -> GenerationRequest:
        """The request that scores its continuation."""
        return replace(self.to_generate(1), continuation=self.continuation)

    def to_generate(self, num_new: int) -> GenerationRequest:
        """The request that goes on from its prompt, by chance but always the same."""
        sampling = SamplingParams(max_new_tokens=num_new, temperature=1.0, top_p=1.0, top_k=0, seed=1)
        return GenerationRequest(
            id=self.name, prompt_ids=self.prompt_ids, sampling=sampling, steering=self.steering
        )


def split(name: str, ids: list[int], num_prompt: int) -> Probe:
    """A probe of these ids without steering."""
    return Probe(name, tuple(ids[:num_prompt]), tuple(ids[num_prompt:]))
