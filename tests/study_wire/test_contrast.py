"""Contrasts through protobuf and back."""

from __future__ import annotations

import random

from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.steering.intervention import FeatureRef
from steerd.studies.contrast_table import Contrast, ContrastedFeature, Difference, FeatureUse, TextCount
from steerd.study_wire.contrast import ContrastCall, contrast_event, contrast_message, contrast_request
from steerd.study_wire.study_text import StudyText


def difference(chance: random.Random) -> Difference:
    uses = [FeatureUse(*(chance.random() for _ in range(4))) for _ in range(2)]
    return Difference(*uses, cohens_h=chance.random(), cliffs_delta=-chance.random(), p_value=chance.random())


def test_a_result_comes_back_as_it_was() -> None:
    chance = random.Random()
    features = tuple(
        ContrastedFeature(
            feature=FeatureRef("early", index),
            label=FeatureLabel(f"about {index}", (LabelScore("detection", 0.5, 7, "judge"),), "writer"),
            more_in=more_in,
            discovery=difference(chance),
            q_value=chance.random(),
            held_out=difference(chance),
            held_out_q_value=chance.random(),
            confirmed=more_in == "a",
        )
        for index, more_in in ((3, "a"), (8, "b"))
    )
    result = Contrast(True, TextCount(5, 4, 900), TextCount(6, 5, 12_345_678_901), 77, 9, 3, features)
    message = pb.ContrastFeaturesResponse(result=contrast_message(result))

    assert contrast_event(pb.ContrastFeaturesResponse.FromString(message.SerializeToString())) == result


def test_progress_comes_back_as_it_was() -> None:
    message = pb.ContrastFeaturesResponse(progress=pb.StudyProgress(done=3, total=8, unit="texts"))

    assert contrast_event(message) == Progress(3, 8, "texts")


def test_the_message_of_a_call() -> None:
    a, b = (StudyText(prompt="a"),), (StudyText(prompt="b"), StudyText(token_ids=(1,)))
    message = contrast_request(
        ContrastCall(
            a=a,
            b=b,
            saes=("late",),
            strength="mean",
            false_discovery_rate=0.2,
            top=7,
            seed=5,
            include_special_tokens=True,
            request_id="name",
            max_seconds=2.5,
        )
    )

    assert ([text.prompt for text in message.a], len(message.b)) == (["a"], 2)
    assert (list(message.saes), message.strength) == (["late"], pb.TEXT_STRENGTH_MEAN)
    assert (message.false_discovery_rate, message.top, message.seed) == (0.2, 7, 5)
    assert (message.include_special_tokens, message.request_id, message.max_seconds) == (True, "name", 2.5)


def test_what_is_not_said_is_left_to_the_server() -> None:
    message = contrast_request(ContrastCall(a=(), b=()))

    assert not message.HasField("false_discovery_rate")
    assert not message.HasField("top")
    assert message.strength == pb.TEXT_STRENGTH_PEAK
