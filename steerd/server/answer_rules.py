"""What the operator lets a comparison of answers try: what Generate would make just as it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.errors import SteerdError
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.edit_conflicts import PlacedEdit
from steerd.server.parse_prompt import PromptParser
from steerd.server.parse_steering import SteeringParser
from steerd.server.violations import Violations
from steerd.steering.intervention import Intervention
from steerd.steering.steering import Steering

_FIELD = "interventions"  # of a Generate, which would ask for them so


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """Parses interventions as if the request had asked for them too, besides its own `steering`.

    Doses above the server's limit are not tried, whatever it would do with them.
    """

    message: pb.CompareAnswersRequest
    prompt_ids: tuple[int, ...]
    parser: SteeringParser
    steering: Steering

    def refusal(self, interventions: Sequence[Intervention]) -> str | None:
        """Why they may not be made, None if they may."""
        violations = Violations()
        besides = [PlacedEdit(_FIELD, each) for each in interventions]
        prompts = PromptParser(self.parser.host, self.parser.limits, violations, "text.")
        try:
            steering = self.parser.steering(
                self.message, self.message.text, prompts, self.prompt_ids, violations, besides=besides
            )
            violations.raise_if_any()
        except SteerdError as error:
            return str(error).removeprefix(f"{_FIELD}: ")
        told = (warning for warning in steering.warnings if warning not in self.steering.warnings)
        return next(told, None)  # lowered, which is told, they are not what would be asked for
