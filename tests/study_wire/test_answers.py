"""Comparisons of answers through protobuf and back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from steerd.client_messages import ChatTurn, Unit
from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention
from steerd.steering.scope import PositionRange, Scope
from steerd.studies.answers.result import (
    AnswerComparison,
    AnswerFeature,
    AnswerScore,
    ControlEffect,
    Flip,
    FlipMember,
    LeftOut,
    Pushes,
)
from steerd.studies.applied_steering import AppliedSteering
from steerd.study_wire.answers import AnswersCall, answers_event, answers_message, answers_request
from steerd.study_wire.study_text import StudyText

SIDES: tuple[Pushes, ...] = ("right", "wrong", "both", "neither")


def comparison() -> AnswerComparison:
    chance = random.Random()

    def score() -> AnswerScore:
        return AnswerScore(-chance.random(), chance.random(), chance.randrange(1, 9))

    features = tuple(
        AnswerFeature(
            feature=FeatureRef("early", number),
            label=None if number == 2 else FeatureLabel(f"about {number}"),
            activation=number / 4,
            position=number,
            predicted_right=chance.random(),
            predicted_wrong=chance.random(),
            right=chance.random(),
            wrong=chance.random(),
            right_logprob=chance.random(),
            wrong_logprob=chance.random(),
            pushes=pushes,
        )
        for number, pushes in enumerate(SIDES)
    )
    scope = Scope(positions=(PositionRange(1),))
    ablated = Intervention(target=FeatureRef("late", 3), operation=Ablate(), scope=scope)
    added = Intervention(target=FeatureRef("early", 8), operation=Add(0.75), scope=scope)
    members = (FlipMember(ablated, None, -0.5, None), FlipMember(added, FeatureLabel("b"), None, -1.5))
    controls = (ControlEffect(9, 0.25, 3.0, 0.125), ControlEffect(4, 0.0, 0.0, 0.0))
    flip = Flip(members, score(), score(), is_minimal=False, controls=controls)
    left_out = (LeftOut((ablated, added), "too much"), LeftOut((added,), "a policy"))
    steering = AppliedSteering(interventions=(ablated,), warnings=("mind",), plan_hash="abc")
    return AnswerComparison(
        True, ("a", " b"), score(), score(), features, flip, tried=17, steering=steering, left_out=left_out
    )


@pytest.mark.parametrize("part", ["whole", "no flip", "nothing"])
def test_a_result_comes_back_as_it_was(part: str) -> None:
    whole = comparison()
    result = {
        "whole": whole,
        "no flip": replace(whole, flip=None, complete=False),
        "nothing": AnswerComparison(complete=False, token_texts=("a",)),
    }[part]
    message = pb.CompareAnswersResponse(result=answers_message(result))

    assert answers_event(pb.CompareAnswersResponse.FromString(message.SerializeToString())) == result


def test_progress_comes_back_as_it_was() -> None:
    message = pb.CompareAnswersResponse(progress=pb.StudyProgress(done=3, total=8, unit="passes"))

    assert answers_event(message) == Progress(3, 8, "passes")


def test_the_message_of_a_call() -> None:
    message = answers_request(
        AnswersCall(
            text=StudyText(chat=(ChatTurn("user", "why?"),)),
            right=" so",
            wrong=(4, 5),
            saes=("late",),
            max_features=3,
            additions=0,
            dose=0.25,
            max_moves=2,
            min_effect=0.5,
            controls=(StudyText(prompt="x"),),
            interventions=(Intervention(target=FeatureRef("late", 3), operation=Add(2.0)),),
            presets=("calm",),
            unit=Unit.FEATURE_MAX,
            request_id="name",
            max_seconds=2.5,
        )
    )

    assert message.text.chat.messages[0].content == "why?"
    assert (message.right.text, list(message.wrong.token_ids.ids)) == (" so", [4, 5])
    assert (list(message.saes), message.max_features, message.additions) == (["late"], 3, 0)
    assert message.HasField("additions")
    assert (message.dose, message.max_moves, message.min_effect) == (0.25, 2, 0.5)
    assert [control.prompt for control in message.controls] == ["x"]
    (added,) = message.interventions
    assert (added.feature.index, added.add.strength) == (3, 2.0)
    assert added.add.unit == steering_pb2.UNIT_FEATURE_MAX
    assert list(message.presets) == ["calm"]
    assert (message.request_id, message.max_seconds) == ("name", 2.5)


def test_what_is_not_said_is_left_to_the_server() -> None:
    message = answers_request(AnswersCall(text=StudyText(prompt="a"), right="b", wrong="c"))

    fields = ("max_features", "additions", "dose", "max_moves", "min_effect")
    assert not any(message.HasField(field) for field in fields)
