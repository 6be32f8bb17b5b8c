"""Comparisons of answers and contrasts of texts on the default host, confirmed by other calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from steerd.client import Client
from steerd.client_messages import GenerateCall, ScoreCall
from steerd.config import Config, MonitoringConfig, ServerConfig
from steerd.feature_client import FeatureClient
from steerd.host.default_host import DEFAULT_HOST_ALIAS
from steerd.host.host_model import HostModel
from steerd.loading import load_saes
from steerd.steering.intervention import FeatureRef
from steerd.studies.encoded_tokens import EncodedTokens
from steerd.study_wire.answers import AnswersCall
from steerd.study_wire.contrast import ContrastCall
from steerd.study_wire.encode import EncodeCall
from steerd.study_wire.study_text import StudyText
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer

pytestmark = pytest.mark.real_host

TOLERANCE = 0.02  # nats; other batches round otherwise

KITCHEN = (
    "Chop the onions and fry them in butter until they are golden.",
    "Add a pinch of salt to the soup and let it simmer for an hour.",
    "Knead the dough, cover it and leave it to rise in a warm place.",
    "Whisk the eggs with sugar before you fold in the flour.",
    "Roast the potatoes in the oven with garlic and rosemary.",
    "Stir the sauce slowly so that the cream does not burn.",
    "Grate the cheese over the pasta and serve it hot.",
    "Bake the cake at a low heat and let it cool in the tin.",
    "Marinate the chicken in lemon juice and olive oil overnight.",
    "Boil the rice, drain it and mix it with the vegetables.",
    "Peel the apples and cook them with cinnamon for the pie.",
    "Season the beef with pepper and grill it on both sides.",
    "Melt the chocolate in a bowl over a pan of hot water.",
    "Slice the tomatoes and scatter fresh basil over them.",
    "Toast the bread and spread it with butter and honey.",
    "Pour the batter into a hot pan and flip the pancake once.",
    "Simmer the beans with bacon and a bay leaf.",
    "Rub the fish with spices and fry it until the skin is crisp.",
    "Beat the cream until stiff and spoon it over the strawberries.",
    "Mash the bananas and stir them into the muffin mixture.",
    "Steam the carrots and toss them in a little butter.",
    "Thicken the gravy with flour and season it with salt.",
    "Roll out the pastry and line the dish with it.",
    "Crush the garlic and heat it gently in the oil.",
)
STARS = (
    "The telescope showed a faint galaxy beyond the nearest stars.",
    "Jupiter is the largest planet that orbits the sun.",
    "Astronauts on the space station circle the Earth many times a day.",
    "A comet leaves a tail of dust as it comes close to the sun.",
    "The rover on Mars sent pictures of craters and red rock.",
    "Light from that supernova took thousands of years to reach us.",
    "The moon passes through the shadow of the Earth in an eclipse.",
    "Saturn has rings of ice and rock around its equator.",
    "Black holes bend the light of the stars behind them.",
    "The rocket put a new satellite into orbit last night.",
    "Astronomers measured the distance of the nebula by its colour.",
    "The probe flew past Pluto on its way out of the solar system.",
    "Venus is hotter than Mercury because of its thick atmosphere.",
    "The Milky Way holds more than a hundred billion stars.",
    "A meteor burned up in the sky above the desert.",
    "The astronaut left the spacecraft to repair the solar panel.",
    "Neptune takes more than a century to go once around the sun.",
    "The universe has been expanding since the big bang.",
    "A lunar module landed near the rim of a crater.",
    "Gravity keeps the planets in their orbits around the sun.",
    "The observatory on the mountain watches for asteroids.",
    "A pulsar is a star that spins and sends out radio waves.",
    "Two galaxies will collide in a few billion years.",
    "The shuttle returned to Earth after ten days in space.",
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    config = Config(
        server=ServerConfig(port=0), monitoring=MonitoringConfig(port=0, sample_every=0, request_log="off")
    )
    host = HostModel.load(DEFAULT_HOST_ALIAS)
    with RunningServer(config, host, load_saes(config, host)) as running:
        yield running


def test_a_flip_makes_the_host_say_the_right_answer(server: RunningServer) -> None:
    prompt, right, wrong = "The capital of Australia is", " Canberra", " Sydney"
    call = AnswersCall(
        text=StudyText(prompt=prompt), right=right, wrong=wrong, max_features=10, additions=6, dose=1.0
    )
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as features:
        found = features.answers(call)

    assert found.flip is not None
    assert found.flip.is_minimal
    assert found.right is not None
    assert found.wrong is not None
    interventions = tuple(member.intervention for member in found.flip.members)
    with Client(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        scores = client.score(
            ScoreCall(prompt=prompt, continuations=(right, wrong), interventions=interventions, baseline=True)
        ).texts
        said = [
            client.generate(GenerateCall(prompt=prompt, interventions=edits, max_new_tokens=4)).text
            for edits in ((), interventions)
        ]
    before = [text.baseline_total_logprob for text in scores]
    after = [text.total_logprob for text in scores]
    assert before[0] < before[1]
    assert after[0] > after[1]
    assert after[0] > before[0]
    assert [found.right.logprob, found.wrong.logprob] == pytest.approx(before, abs=TOLERANCE)
    assert [found.flip.right.logprob, found.flip.wrong.logprob] == pytest.approx(after, abs=TOLERANCE)
    assert said[0] != said[1]


def peaks(client: FeatureClient, features: Sequence[FeatureRef], texts: Sequence[str]) -> np.ndarray:
    """The largest activation [features, texts] on any token but the first, by Encode."""
    found = np.zeros((len(features), len(texts)))
    rows = {feature: row for row, feature in enumerate(features)}
    for part in client.encode(EncodeCall(texts=questions(texts), watch=tuple(features))):
        if isinstance(part, EncodedTokens):
            for codes in part.codes:
                for place, (indices, values) in enumerate(codes.by_token()):
                    if part.first_position + place == 0:
                        continue
                    for index, value in zip(indices.tolist(), values.tolist(), strict=True):
                        row = rows[FeatureRef(codes.sae, index)]
                        found[row, part.text] = max(found[row, part.text], value)
    return found


def questions(texts: Sequence[str]) -> tuple[StudyText, ...]:
    return tuple(StudyText(prompt=text) for text in texts)


def test_a_contrast_tells_cooking_from_astronomy(server: RunningServer) -> None:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        contrast = client.contrast(ContrastCall(a=questions(KITCHEN), b=questions(STARS)))
        features = [each.feature for each in contrast.features]
        in_kitchen, in_stars = (peaks(client, features, texts) for texts in (KITCHEN, STARS))

    confirmed = [each for each in contrast.features if each.confirmed]
    assert {each.more_in for each in confirmed} == {"a", "b"}
    assert len(confirmed) > 10
    for each, ours, theirs in zip(contrast.features, in_kitchen, in_stars, strict=True):
        for peak, size, halves in (
            (ours, contrast.a, (each.discovery.a, each.held_out.a)),
            (theirs, contrast.b, (each.discovery.b, each.held_out.b)),
        ):
            shares = (size.discovery_texts / len(peak), size.held_out_texts / len(peak))
            rate = sum(half.text_rate * share for half, share in zip(halves, shares, strict=True))
            mean = sum(half.mean_peak * share for half, share in zip(halves, shares, strict=True))
            assert rate == pytest.approx((peak > 0).mean(), abs=1e-6)
            assert mean == pytest.approx(peak.mean(), rel=0.01, abs=0.01)
        delta = np.sign(ours[:, None] - theirs[None, :]).mean()
        assert (delta > 0) == (each.more_in == "a")
