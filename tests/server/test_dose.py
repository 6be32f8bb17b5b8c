"""The dose guard by hand: directions are unit vectors, the recorded maximum of feature i is (i + 1) / 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import grpc
import pytest

from steerd.config import SteeringConfig
from steerd.errors import FieldViolation, InvalidRequest
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.catalog_service_pb2 import GetServerInfoRequest
from steerd.pb.v1.feature_pb2 import FeatureRef as WireFeature
from steerd.server.dose import DoseGuard
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Scope
from tests.server.running_server import RunningServer, tiny_config
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

NORM = 10.0
POINT = "blocks.0.hook_resid_post"


def known_saes(host: HostModel) -> LoadedSaes:
    """One SAE with a median residual norm of 10, one without; all others are measured."""
    saes = LoadedSaes(host)
    for name, point in (("known", POINT), ("unknown", "blocks.2.hook_resid_post")):
        bundle = tiny_sae(host, point)
        provenance = bundle.metadata.provenance | ({"median_resid_norm": NORM} if name == "known" else {})
        saes.add(name, replace(bundle, metadata=replace(bundle.metadata, provenance=provenance)))
    saes.measure_norms()
    return saes


def on(feature: int, operation: Operation, sae: str = "known") -> Intervention:
    return Intervention(target=FeatureRef(sae, feature), operation=operation)


def guarded(
    host: HostModel, interventions: Sequence[Intervention], over_dose: str = "warn", max_dose: float = 1.0
) -> tuple[list[Operation], tuple[str, ...]]:
    guarded = DoseGuard(known_saes(host), max_dose, over_dose).guard(interventions)
    if guarded.refusals:
        raise InvalidRequest([FieldViolation("interventions", refusal) for refusal in guarded.refusals])
    return [intervention.operation for intervention in guarded.interventions], guarded.warnings


@pytest.mark.parametrize(
    ("intervention", "dose"),
    [
        (on(3, Add(-5.0)), 0.5),
        (on(3, Set(0.5)), 0.05),
        (on(3, Set(-7.0)), 0.7),
        (on(3, Scale(3.0)), 0.2),
        (on(3, Scale(-2.0)), 0.2),
        (on(3, Limit(low=4.0)), 0.4),
        (on(3, Limit(high=-0.5)), 0.05),
        (on(3, Limit(-6.0, -1.0)), 0.1),
        (Intervention(target=unit_direction(POINT, [7.0] * 32), operation=Add(4.0)), 0.4),
        (Intervention(target=unit_direction(POINT, [7.0] * 32), operation=Set(4.0)), 0.4),
    ],
    ids=str,
)
def test_the_dose_of_one_intervention(tiny_host: HostModel, intervention: Intervention, dose: float) -> None:
    assert guarded(tiny_host, [intervention], "reject", dose + 1e-6)[1] == ()
    with pytest.raises(InvalidRequest, match=rf"at most .* times; they can add {dose:.3g} times .*{POINT}"):
        guarded(tiny_host, [intervention], "reject", dose - 1e-3)


def test_what_only_takes_away_has_no_dose(tiny_host: HostModel) -> None:
    whole = Intervention(target=WholeSae("known"), operation=Reconstruct())

    weaker = [on(62, Scale(0.5)), on(61, Limit(high=0.5)), on(60, Limit(-6.0, 0.5))]

    assert guarded(tiny_host, [on(63, Ablate()), whole, *weaker], "reject", 0.0)[1] == ()


def test_the_doses_of_a_hook_point_add_up_however_they_are_split(tiny_host: HostModel) -> None:
    parts = [
        replace(on(3, Add(6.0)), scope=Scope(phase=Phase.PROMPT)),
        replace(on(4, Add(-6.0)), scope=Scope(phase=Phase.GENERATED)),
    ]

    with pytest.raises(InvalidRequest, match=r"^interventions: must add at most 1 times.*1\.2 times"):
        guarded(tiny_host, parts, "reject")
    _, (warning,) = guarded(tiny_host, parts, "warn")
    assert "1.2 times" in warning


def test_clamping_lowers_the_hook_points_strengths_to_the_limit(tiny_host: HostModel) -> None:
    interventions = [on(3, Add(10.0)), on(7, Scale(6.0)), on(4, Set(-20.0)), on(5, Ablate())]

    operations, (warning,) = guarded(tiny_host, interventions, "clamp")

    assert operations == [Add(2.5), Scale(2.25), Set(-5.0), Ablate()]  # 10 + 10 + 20 are 4 times the norm
    assert "times 0.25" in warning
    assert guarded(tiny_host, [on(3, Limit(20.0, 50.0))], "clamp")[0] == [Limit(10.0, 50.0)]
    assert guarded(tiny_host, [on(3, Scale(-40.0))], "clamp")[0] == [Scale(-10.0)]


@pytest.mark.parametrize("limit", [Limit(high=5.0), Limit(-5.0, 5.0), Limit(low=-5.0)])
def test_clamping_leaves_a_limit_that_adds_nothing(tiny_host: HostModel, limit: Limit) -> None:
    operations, _ = guarded(tiny_host, [on(3, Add(10.0)), on(4, limit)], "clamp", max_dose=0.0)

    assert operations == [Add(0.0), limit]


@pytest.mark.parametrize("over_dose", ["reject", "clamp"])
def test_what_like_directions_take_away_too_often_is_a_dose(tiny_host: HostModel, over_dose: str) -> None:
    """All read the same row, so that 16 ablations of almost one direction turn it round, 15 times as long."""
    values = [[1.0 + 1e-5 * number, *[1.0] * 31] for number in range(16)]
    like = [
        Intervention(target=unit_direction(POINT, each), operation=operation)
        for each, operation in zip(values, [Ablate(), Set(0.0)] * 8, strict=True)
    ]
    apart = [
        Intervention(target=unit_direction(POINT, [0.0] * n + [1.0] + [0.0] * (31 - n)), operation=Ablate())
        for n in range(32)
    ]

    assert len({edit.target for edit in like}) == 16
    assert guarded(tiny_host, like, "warn")[1][0].startswith("dose: 15 times")
    assert guarded(tiny_host, like[:2], over_dose, 1.01)[1] == ()
    with pytest.raises(InvalidRequest, match="at most 1 times; they can add 15 times"):
        guarded(tiny_host, like, over_dose)
    assert guarded(tiny_host, apart, over_dose, 0.0)[1] == ()
    along = Intervention(target=like[0].target, operation=Add(1.0))
    with pytest.raises(InvalidRequest, match="at most 1 times"):
        guarded(tiny_host, [along, *like], over_dose)


def test_the_part_that_no_clamp_lowers_is_left_to_the_others(tiny_host: HostModel) -> None:
    pair = [
        Intervention(target=unit_direction(POINT, [1.0, along] + [0.0] * 30), operation=Ablate())
        for along in (0.0, 1.0)
    ]  # 1 / sqrt(2) too often

    (*_, added), _ = guarded(tiny_host, [*pair, on(3, Add(10.0))], "clamp")

    assert added == Add(pytest.approx(10.0 * (1 - 0.5**0.5)))


def test_warnings_leave_the_interventions_as_they_are(tiny_host: HostModel) -> None:
    operations, (warning,) = guarded(tiny_host, [on(3, Add(30.0))])

    assert operations == [Add(30.0)]
    assert POINT in warning
    assert "3 times" in warning
    assert "above 1" in warning


def test_where_no_sae_records_a_norm_the_measured_one_counts(tiny_host: HostModel) -> None:
    measured = known_saes(tiny_host).median_resid_norm(FeatureRef("unknown", 3))
    elsewhere = Intervention(target=unit_direction("blocks.1.hook_resid_pre", [1.0] * 32), operation=Add(1e5))

    assert guarded(tiny_host, [on(3, Add(0.5 * measured), sae="unknown")], "reject", 0.51)[1] == ()
    for intervention in (on(3, Add(0.5 * measured), sae="unknown"), elsewhere):
        with pytest.raises(InvalidRequest, match="times the median residual norm"):
            guarded(tiny_host, [intervention], "reject", 0.49)


def test_what_is_not_known_is_told(tiny_host: HostModel) -> None:
    along = Intervention(target=unit_direction(POINT, [1.0] * 32), operation=Scale(9.0))
    _, (warning,) = guarded(tiny_host, [along])
    assert "no largest activation" in warning

    saes = known_saes(tiny_host)
    statistics = saes.get("known").statistics
    assert statistics is not None
    statistics.max_activation[3] = 0.0  # never seen active
    assert DoseGuard(saes, 1.0, "warn").uncounted(on(3, Scale(1e6)))


def add(strength: float, unit: int = steering.UNIT_ACTIVATION) -> pb.GenerateRequest:
    edit = steering.Intervention(
        feature=WireFeature(sae="known", index=3),
        add=steering.Add(strength=strength, unit=unit),  # type: ignore[arg-type]
    )
    return pb.GenerateRequest(prompt="a", sampling=pb.SamplingParams(max_new_tokens=1), interventions=[edit])


@pytest.mark.parametrize("over_dose", ["warn", "clamp", "reject"])
def test_a_server_does_what_its_operator_chose(over_dose: str) -> None:
    host = make_tiny_host()
    config = tiny_config(steering=SteeringConfig(max_dose=0.5, over_dose=over_dose))
    with RunningServer(config, host, known_saes(host)) as server:
        capabilities = server.catalog.GetServerInfo(GetServerInfoRequest()).capabilities
        assert capabilities.max_dose == 0.5
        assert capabilities.over_dose == steering.OverDose.Value(f"OVER_DOSE_{over_dose.upper()}")

        quiet = server.generate(add(0.5, steering.UNIT_RESID_NORM)).started
        assert (quiet.interventions[0].add.strength, list(quiet.warnings)) == (5.0, [])
        if over_dose == "reject":
            with pytest.raises(grpc.RpcError) as caught:
                server.generate(add(20.0))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            loud = server.generate(add(20.0)).started
            assert loud.interventions[0].add.strength == (5.0 if over_dose == "clamp" else 20.0)
            assert len(loud.warnings) == 1
