"""What a client sees of a server, from protobuf."""

from __future__ import annotations

from steerd.client_views import (
    ActivitySnapshot,
    Allowed,
    ServedPolicy,
    ServedPreset,
    ServedSae,
    ServerInfo,
    TopFeature,
    Watched,
    WatchedActivity,
)
from steerd.intervention_wire import feature_message, intervention_of
from steerd.pb.v1 import catalog_service_pb2, monitor_service_pb2, steering_pb2
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.steering.steering import NamedVersion
from steerd.study_wire.label import score_of


def server_info(message: catalog_service_pb2.GetServerInfoResponse) -> ServerInfo:
    """Version and host of a server."""
    model = message.model
    return ServerInfo(
        version=message.version,
        model=model.name,
        device=model.device,
        dtype=model.dtype,
        max_context=model.max_context,
        has_chat_template=model.has_chat_template,
    )


def served_sae(message: catalog_service_pb2.Sae) -> ServedSae:
    """One entry of the list of SAEs."""
    return ServedSae(
        name=message.name,
        hook_point=message.hook_point,
        d_model=message.d_model,
        d_sae=message.d_sae,
        architecture=message.architecture,
        model_name=message.model_name,
        weights_sha256=message.weights_sha256,
        has_statistics=message.has_statistics,
        median_resid_norm=message.median_resid_norm,
    )


def served_preset(message: catalog_service_pb2.Preset) -> ServedPreset:
    """One entry of the list of presets."""
    return ServedPreset(
        named=NamedVersion(message.name, message.version),
        description=message.description,
        interventions=tuple(map(intervention_of, message.interventions)),
        triggers=tuple(map(_trigger_text, message.triggers)),
    )


def served_policy(message: catalog_service_pb2.Policy) -> ServedPolicy:
    """One entry of the list of policies."""
    allow = message.allow
    allowed = Allowed(tuple(allow.features), allow.directions, allow.reconstruct, tuple(allow.presets))
    over_dose = steering_pb2.OverDose.Name(message.over_dose).removeprefix("OVER_DOSE_").lower()
    return ServedPolicy(
        named=NamedVersion(message.name, message.version),
        description=message.description,
        interventions=tuple(map(intervention_of, message.interventions)),
        allowed=allowed if message.HasField("allow") else None,
        max_dose=message.max_dose if message.HasField("max_dose") else None,
        over_dose=over_dose if message.HasField("max_dose") else "",
        triggers=tuple(map(_trigger_text, message.triggers)),
    )


def _trigger_text(message: steering_pb2.Trigger) -> str:
    return f"{message.WhichOneof('action')} {message.name}"


def watched(message: catalog_service_pb2.WatchedFeature) -> Watched:
    """One entry of a watch list."""
    feature = FeatureRef(message.feature.sae, message.feature.index)
    return Watched(feature, message.alias, message.threshold, message.hot)


def watched_message(watched: Watched) -> catalog_service_pb2.WatchedFeature:
    """The message of one entry."""
    return catalog_service_pb2.WatchedFeature(
        feature=feature_message(watched.feature),
        alias=watched.alias,
        threshold=watched.threshold,
        hot=watched.hot,
    )


def snapshot(message: monitor_service_pb2.WatchActivationsResponse) -> ActivitySnapshot:
    """One message of the stream of activity."""
    return ActivitySnapshot(
        seconds=message.seconds,
        lost=message.lost,
        tokens=message.tokens,
        features=tuple(
            WatchedActivity(
                feature=FeatureRef(each.feature.sae, each.feature.index),
                alias=each.alias,
                active_tokens=each.active_tokens,
                over_threshold_tokens=each.over_threshold_tokens,
                max_activation=each.max_activation,
            )
            for each in message.features
        ),
    )


def top_features(message: monitor_service_pb2.TopFeatures) -> list[TopFeature]:
    """The strongest features of one SAE."""
    return [
        TopFeature(
            feature=FeatureRef(message.sae, each.feature),
            label=FeatureLabel(
                each.label, (score_of(each.label_score),) if each.HasField("label_score") else ()
            ),
            active_share=each.active_share,
            strength=each.strength,
            usual_strength=each.usual_strength,
        )
        for each in message.features
    ]
