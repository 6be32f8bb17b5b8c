"""Pages, matches and calls through protobuf and back."""

from __future__ import annotations

from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureExample
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import FeatureMatch, FeatureMatches, TextMatch, TextMatches
from steerd.studies.feature_page import FeaturePage, TokenEffect
from steerd.study_wire.feature_description import page_message, page_of, page_request
from steerd.study_wire.feature_search import (
    NearestCall,
    TextSearchCall,
    nearest_message,
    nearest_of,
    nearest_request,
    text_matches_message,
    text_search_event,
    text_search_request,
    words_message,
    words_of,
)
from steerd.study_wire.study_text import StudyText

MADE = FeatureLabel(
    "made", (LabelScore("tokens", 0.7, 30, strong=0.0), LabelScore("rubric", 4.0, 5, "judge"))
)
WRITTEN = FeatureLabel(
    "written", (LabelScore("detection", 0.7, 50, "judge"), LabelScore("fuzzing", 0.1, 9, "judge")), by="model"
)
FULL = FeatureMatch(
    feature=FeatureRef("late", 7),
    hook_point="blocks.2.hook_resid_post",
    label=FeatureLabel("shown", WRITTEN.scores[:1], by="model"),
    match=-0.3,
    density=0.0,
    max_activation=0.5,
    top_tokens=("a", " b"),
    promoted_tokens=("c",),
    texts=TextMatch(3, 1, 0.9, 0.2),
)
BARE = FeatureMatch(FeatureRef("early", 0), "blocks.0.hook_resid_post", None, 1.0)


def test_a_page_comes_back_as_it_was() -> None:
    page = FeaturePage(
        feature=FeatureRef("late", 7),
        hook_point="blocks.2.hook_resid_post",
        labels=(MADE, WRITTEN),
        density=0.0,
        max_activation=2.5,
        mean_activation=1.25,
        dead=True,
        top_tokens=(" x",),
        contexts=(FeatureExample((" x", "y"), (0.5, 0.0)), FeatureExample((), (), percentile=0.0)),
        promoted=(TokenEffect(3, 2.5, " x"),),
        suppressed=(TokenEffect(4, -2.5, "y"),),
        neighbours=(FULL, BARE),
    )
    bare = FeaturePage(FeatureRef("late", 7), "blocks.2.hook_resid_post")

    for each in (page, bare):
        message = pb.GetFeatureResponse.FromString(page_message(each).SerializeToString())
        assert page_of(message) == each


def test_a_score_says_whether_it_fails() -> None:
    message = page_message(FeaturePage(FeatureRef("a", 0), "b", (WRITTEN,)))

    assert [score.fails for score in message.labels[0].scores] == [False, True]


def test_matches_come_back_as_they_were() -> None:
    words = words_message(FeatureMatches((FULL, BARE), found=9))
    near = nearest_message(FeatureMatches((FULL, BARE), found=2))
    result = TextMatches(False, (FULL, BARE), 12)
    event = pb.SearchByTextsResponse(result=text_matches_message(result))

    assert words_of(pb.SearchFeaturesResponse.FromString(words.SerializeToString())).features == (FULL, BARE)
    assert words_of(words).found == 9
    assert nearest_of(near).features == (FULL, BARE)
    assert text_search_event(pb.SearchByTextsResponse.FromString(event.SerializeToString())) == result
    progress = pb.SearchByTextsResponse(progress=pb.StudyProgress(done=3, total=8, unit="texts"))
    assert text_search_event(progress) == Progress(3, 8, "texts")


def test_the_messages_of_calls() -> None:
    page = page_request(FeatureRef("late", 7), None, 0)
    near = nearest_request(NearestCall(near=FeatureRef("late", 7), side="encoder"))
    vector = nearest_request(NearestCall(near=(0.5, 2.0), saes=("late",), limit=3))
    texts = text_search_request(
        TextSearchCall(
            fires_on=(StudyText(prompt="a"),),
            not_on=(StudyText(token_ids=(1,)),),
            saes=("late",),
            limit=0,
            include_special_tokens=True,
            request_id="me",
            max_seconds=2.5,
        )
    )

    assert not page.HasField("output_tokens")
    assert page.HasField("neighbours")
    assert (near.feature.sae, near.feature.index, near.side) == ("late", 7, pb.FEATURE_SIDE_ENCODER)
    assert not near.HasField("limit")
    assert list(vector.vector.values) == [0.5, 2.0]
    assert (list(vector.saes), vector.limit, vector.side) == (["late"], 3, pb.FEATURE_SIDE_DECODER)
    assert (texts.fires_on[0].prompt, list(texts.not_on[0].token_ids.ids)) == ("a", [1])
    assert texts.HasField("limit")
    assert (texts.request_id, texts.max_seconds, texts.include_special_tokens) == ("me", 2.5, True)
