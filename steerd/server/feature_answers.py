"""All that answers questions about features, for one set of SAEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from steerd.config import Config
from steerd.engine.steered_forward import SteeredForward
from steerd.server.dose_studies import DoseStudies
from steerd.server.engine_texts import TextEngine
from steerd.server.feature_lookup import FeatureLookup
from steerd.server.served import Served
from steerd.server.steered_studies import SteeredStudies
from steerd.server.studying import Studying
from steerd.server.text_studies import TextStudies
from steerd.steering.loaded_saes import LoadedSaes


class AnsweringEngine(TextEngine, Protocol):
    """What the answers need of the engine."""

    def steered_forward(self, saes: LoadedSaes | None = None) -> SteeredForward:
        """Runs of whole texts under steering by these SAEs."""


@dataclass(frozen=True, slots=True)
class FeatureAnswers:
    """Studies of texts, of texts under steering and of doses, and the short questions."""

    texts: TextStudies
    steered: SteeredStudies
    dosed: DoseStudies
    lookup: FeatureLookup


def feature_answers(
    served: Served, engine: AnsweringEngine, studying: Studying, config: Config
) -> FeatureAnswers:
    """What answers for what is served."""
    requests, forward = served.requests, engine.steered_forward(served.saes)
    return FeatureAnswers(
        texts=TextStudies(requests.host, served.saes, config),
        steered=SteeredStudies(forward, requests, config),
        dosed=DoseStudies(engine, forward, requests, config),
        lookup=FeatureLookup(studying, requests.host, served.saes, config),
    )
