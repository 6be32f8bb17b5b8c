"""Tables of special tokens through protobuf and back."""

from __future__ import annotations

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.studies.special_token_table import FiringFeature, SpecialToken, SpecialTokenTable
from steerd.study_wire.special_tokens import (
    SpecialTokensCall,
    special_tokens_event,
    special_tokens_request,
    table_message,
)

TABLE = SpecialTokenTable(
    complete=True,
    texts=3,
    tokens=(
        SpecialToken(
            token_id=257,
            texts=2,
            features=(
                FiringFeature(FeatureRef("late", 4), FeatureLabel("a label", ()), 2.5, 3.0, 0.5, 0.25),
                FiringFeature(FeatureRef("late", 5), None, 1.5, 2.0, 1.0, 0.0),
            ),
            token_text="<|im_start|>",
        ),
    ),
)


def test_a_table_arrives_as_it_was() -> None:
    response = pb.FindSpecialTokenFeaturesResponse(result=table_message(TABLE))

    assert special_tokens_event(response) == TABLE


def test_the_message_of_a_call_leaves_defaults_to_the_server() -> None:
    assert special_tokens_request(SpecialTokensCall()).ByteSize() == 0
    assert special_tokens_request(SpecialTokensCall(saes=("late",), top=3)).top == 3
