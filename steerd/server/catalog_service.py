"""CatalogService: what is served here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import grpc

from steerd.condition_wire import applied_trigger_message
from steerd.config import Config, SteeringConfig, WatchedFeature
from steerd.host.host_model import HostModel
from steerd.intervention_wire import applied_message
from steerd.pb.v1 import catalog_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.pb.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from steerd.server.admin_service import watched_messages
from steerd.server.allowance import Allowance
from steerd.server.policy import Policy
from steerd.server.preset_book import Preset
from steerd.server.sae_message import sae_message
from steerd.server.served import Serving

InfoContext = grpc.aio.ServicerContext[pb.GetServerInfoRequest, pb.GetServerInfoResponse]
PresetsContext = grpc.aio.ServicerContext[pb.ListPresetsRequest, pb.ListPresetsResponse]
ListContext = grpc.aio.ServicerContext[pb.ListSaesRequest, pb.ListSaesResponse]


class CatalogService(CatalogServiceServicer):
    """Answers from what is served now, and from the watch list."""

    def __init__(
        self,
        host: HostModel,
        serving: Serving,
        config: Config,
        why_no_sharing: str,
        why_no_graphs: Callable[[], str],
        watched: Callable[[], Sequence[WatchedFeature]],
    ) -> None:
        """`why_no_sharing` says why prompts share no prefixes, empty when they do, and `why_no_graphs` why
        steps are not recorded.

        `watched` is asked for the watch list whenever it is to be told.
        """
        self._why_no_sharing = why_no_sharing
        self._why_no_graphs = why_no_graphs
        self._watched = watched
        self._host = host
        self._serving = serving
        self._config = config

    async def GetServerInfo(
        self,
        request: pb.GetServerInfoRequest,  # noqa: ARG002  # it is empty
        context: InfoContext,  # noqa: ARG002
    ) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            version=version("steerd"),
            model=_host_model(self._host),
            limits=_limits(self._config),
            watched_features=watched_messages(self._watched()),
            capabilities=_capabilities(self._config.steering, self._why_no_sharing, self._why_no_graphs()),
        )

    async def ListSaes(
        self,
        request: pb.ListSaesRequest,  # noqa: ARG002  # it is empty
        context: ListContext,  # noqa: ARG002
    ) -> pb.ListSaesResponse:
        saes = self._serving.now.saes
        return pb.ListSaesResponse(saes=[sae_message(loaded, saes) for loaded in saes])

    async def ListPresets(
        self,
        request: pb.ListPresetsRequest,  # noqa: ARG002  # it is empty
        context: PresetsContext,  # noqa: ARG002
    ) -> pb.ListPresetsResponse:
        served = self._serving.now
        return pb.ListPresetsResponse(
            presets=[_preset(preset) for preset in served.presets],
            policies=[_policy(policy) for policy in served.policies],
        )


def _host_model(host: HostModel) -> pb.HostModel:
    return pb.HostModel(
        name=host.name,
        d_model=host.d_model,
        num_layers=host.num_layers,
        vocab_size=host.vocab_size,
        max_context=host.max_context,
        dtype=str(host.dtype).removeprefix("torch."),
        device=str(host.device),
        content_hash=host.content_hash,
        has_chat_template=host.has_chat_template,
    )


def _limits(config: Config) -> pb.Limits:
    limits = config.limits
    return pb.Limits(
        max_new_tokens=limits.max_new_tokens,
        default_max_new_tokens=limits.default_max_new_tokens,
        max_prompt_characters=limits.max_prompt_characters,
        max_interventions=limits.max_interventions,
        max_watched_features=limits.max_watched_features,
        max_top_k=limits.max_top_k,
        max_stop_strings=limits.max_stop_strings,
        max_stop_characters=limits.max_stop_characters,
        max_magnitude=limits.max_magnitude,
        max_request_seconds=config.server.max_request_seconds,
        max_direction_values=limits.max_direction_values,
        max_tests=limits.max_tests,
        max_scope_items=limits.max_scope_items,
        max_continuations=limits.max_continuations,
        max_triggers=limits.max_triggers,
        max_presets=limits.max_presets,
        max_study_seconds=config.server.max_study_seconds,
        max_study_texts=limits.max_study_texts,
        max_text_tokens=limits.max_text_tokens,
        max_study_tokens=limits.max_study_tokens,
        max_ranked_features=limits.max_ranked_features,
        max_study_values=limits.max_study_values,
        max_gradient_tokens=limits.max_gradient_tokens,
    )


def _capabilities(steering: SteeringConfig, why_no_sharing: str, why_no_graphs: str) -> pb.Capabilities:
    return pb.Capabilities(
        prefix_sharing=not why_no_sharing,
        prefix_sharing_reason=why_no_sharing,
        cuda_graphs=not why_no_graphs,
        cuda_graphs_reason=why_no_graphs,
        max_dose=steering.max_dose,
        over_dose=_over_dose(steering.over_dose),
    )


def _preset(preset: Preset) -> pb.Preset:
    return pb.Preset(
        name=preset.named.name,
        version=preset.named.version,
        description=preset.description,
        interventions=[applied_message(intervention) for intervention in preset.interventions],
        triggers=[applied_trigger_message(trigger) for trigger in preset.triggers],
    )


def _policy(policy: Policy) -> pb.Policy:
    message = pb.Policy(
        name=policy.named.name,
        version=policy.named.version,
        description=policy.description,
        interventions=[applied_message(intervention) for intervention in policy.interventions],
        triggers=[applied_trigger_message(trigger) for trigger in policy.triggers],
    )
    if policy.allowance is not None:
        message.allow.CopyFrom(_allow(policy.allowance))
    if policy.cap is not None:
        message.max_dose = policy.cap.max_dose
        message.over_dose = _over_dose(policy.cap.over_dose)
    return message


def _allow(allowance: Allowance) -> pb.Allow:
    return pb.Allow(
        features=[f"{each.sae}:{each.first}-{each.last}" for each in allowance.features],
        directions=allowance.directions,
        reconstruct=allowance.reconstruct,
        presets=sorted(allowance.presets),
    )


def _over_dose(name: str) -> steering_pb2.OverDose.ValueType:
    return steering_pb2.OverDose.Value(f"OVER_DOSE_{name.upper()}")
