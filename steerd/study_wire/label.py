"""Labels of features, never without their score, to protobuf and back."""

from __future__ import annotations

from steerd.pb.v1 import feature_pb2 as pb
from steerd.sae.feature_label import METHODS, FeatureLabel, LabelScore, Method

_METHODS: dict[str, Method] = {method: method for method in METHODS}


def label_message(label: FeatureLabel | None) -> pb.FeatureLabel | None:
    """The message of a label; of its scores it tells the one to show."""
    if label is None:
        return None
    message = pb.FeatureLabel(text=label.text, by=label.by)
    if label.score is not None:
        score = label.score
        message.score.CopyFrom(
            pb.LabelScore(
                method=score.method,
                value=score.value,
                contexts=score.contexts,
                judge=score.judge,
                fails=score.fails,
            )
        )
    return message


def label_of(message: pb.FeatureLabel) -> FeatureLabel:
    """A label as a message tells it."""
    score = message.score
    if not message.HasField("score"):
        return FeatureLabel(message.text, (), message.by)
    told = LabelScore(_METHODS[score.method], score.value, score.contexts, score.judge)
    return FeatureLabel(message.text, (told,), message.by)
