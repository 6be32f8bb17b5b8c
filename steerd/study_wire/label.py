"""Labels of features, never without their score, to protobuf and back."""

from __future__ import annotations

from steerd.pb.v1 import feature_pb2 as pb
from steerd.sae.feature_label import METHODS, FeatureLabel, LabelScore, Method

_METHODS: dict[str, Method] = {method: method for method in METHODS}


def label_message(label: FeatureLabel | None) -> pb.FeatureLabel | None:
    """The message of a label; of its scores it tells the one to show."""
    if label is None:
        return None
    score = None if label.score is None else score_message(label.score)
    return pb.FeatureLabel(text=label.text, by=label.by, score=score)


def label_of(message: pb.FeatureLabel) -> FeatureLabel:
    """A label as a message tells it."""
    scores = (score_of(message.score),) if message.HasField("score") else ()
    return FeatureLabel(message.text, scores, message.by)


def score_message(score: LabelScore) -> pb.LabelScore:
    """What one test found."""
    return pb.LabelScore(
        method=score.method,
        value=score.value,
        contexts=score.contexts,
        judge=score.judge,
        fails=score.fails,
        strong=score.strong,
    )


def score_of(message: pb.LabelScore) -> LabelScore:
    """What one test found, as a message tells it."""
    strong = message.strong if message.HasField("strong") else None
    method = _METHODS[message.method]
    return LabelScore(method, message.value, message.contexts, message.judge, strong)
