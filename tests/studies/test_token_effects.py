"""Ablation effects against two plain forwards under the naive hook, and on a host where they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.host.host_model import HostModel
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from steerd.studies.effect_table import EffectTable, FeatureEffect
from steerd.studies.token_effects import Ablation, EffectWish, TokenEffects
from tests.engine.requests import LONG, edit
from tests.engine.serving import tiny_saes
from tests.planted_host import FEATURES, make_planted_host, planted_saes
from tests.studies.steered import TOLERANCE, plain_logits, plain_rows, run, steered, steered_forward
from tests.tiny_hosts import make_tiny_host

BASE = steered(LONG[:30], edit("sae-1", 2, Add(3.0)), continuation=LONG[30:])


def with_ablation(text: SteeredText, feature: FeatureRef) -> SteeredText:
    ablate = Intervention(target=feature, operation=Ablate(), scope=Scope())
    return replace(text, steering=Steering(interventions=(*text.steering.interventions, ablate)))


def study(
    forward: SteeredForward,
    host: HostModel,
    saes: LoadedSaes,
    text: SteeredText,
    features: Sequence[FeatureRef],
    size: int = 256,
) -> TokenEffects:
    ablations = tuple(Ablation(feature, with_ablation(text, feature).steering) for feature in features)
    wish = EffectWish(text=text, plan_hash="", ablations=ablations)
    return TokenEffects(forward, host, saes, wish, slice_tokens=size)


def effects(
    host: HostModel, saes: LoadedSaes, text: SteeredText, features: Sequence[FeatureRef], size: int = 256
) -> EffectTable:
    with steered_forward(host, saes) as forward:
        table = run(study(forward, host, saes, text, features, size))
    assert isinstance(table, EffectTable)
    return table


def logprobs(host: HostModel, saes: LoadedSaes, text: SteeredText) -> torch.Tensor:
    """Of each token, [tokens]; 0 for the first."""
    found = plain_logits(host, saes, text)[:-1].double().log_softmax(dim=-1)
    chosen = found.gather(1, torch.tensor(text.token_ids[1:]).unsqueeze(1)).squeeze(1)
    return torch.cat([torch.zeros(1, dtype=chosen.dtype), chosen])


@pytest.mark.parametrize("size", [1, 120, 10_000])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_changes_are_those_of_two_plain_forwards(architecture: str, size: int) -> None:
    host = make_tiny_host(architecture)
    saes = tiny_saes(host)
    features = [FeatureRef("sae-0", n) for n in (3, 9, 20)] + [FeatureRef("sae-1", n) for n in (5, 7)]

    table = effects(host, saes, BASE, features, size)

    plain = logprobs(host, saes, BASE)
    assert table.complete
    assert table.ordinary == (False, *[True] * 53)
    assert table.logprobs == pytest.approx(plain.tolist(), abs=TOLERANCE)
    assert [effect.feature for effect in table.effects] == features
    for effect in table.effects:
        loaded = saes.get(effect.feature.sae)
        before = steered(BASE.token_ids)  # the one edit is the last layer's
        acts = loaded.sae.encode(plain_rows(host, saes, before, loaded.hook_point))[:, effect.feature.index]
        assert effect.activations == pytest.approx(acts.tolist(), abs=TOLERANCE)
        expected = logprobs(host, saes, with_ablation(BASE, effect.feature)) - plain
        assert effect.changes == pytest.approx(expected.tolist(), abs=5 * TOLERANCE)
        assert effect.total_change == pytest.approx(float(expected.sum()), abs=100 * TOLERANCE)
        assert effect.label == FeatureLabel(f"label of {effect.feature.index}")
    assert max(abs(change) for effect in table.effects for change in effect.changes) > 0.1


def test_a_feature_that_is_nowhere_active_changes_nothing(tiny_host: HostModel) -> None:
    saes = tiny_saes(tiny_host)
    acts = saes.get("sae-0").sae.encode(
        plain_rows(tiny_host, saes, steered(LONG[:3]), saes.get("sae-0").hook_point)
    )
    silent = int((acts == 0).all(dim=0).nonzero()[0])

    table = effects(tiny_host, saes, steered(LONG[:3]), [FeatureRef("sae-0", silent)])

    (effect,) = table.effects
    assert (effect.activations, effect.changes) == ((0.0,) * 3, (0.0,) * 3)
    assert table.complete


def test_nothing_changes_up_to_the_first_token_where_a_feature_is_active(tiny_host: HostModel) -> None:
    saes = tiny_saes(tiny_host)

    table = effects(tiny_host, saes, steered(LONG), [FeatureRef("sae-0", n) for n in range(12)])

    late = 0
    for effect in table.effects:
        start = next(n for n, value in enumerate(effect.activations) if value > 0)
        late += start > 0
        assert effect.changes[: start + 1] == (0.0,) * (start + 1)
    assert late > 0


def test_planted_features_speak_for_the_answers_that_they_cause() -> None:
    """C needs A and B, D either of E and F: without A there is no Y, without E there is still Z."""
    host = make_planted_host()
    saes = planted_saes(host)
    names = ("A", "B", "C", "O")

    def change(text: bytes, names: Sequence[str]) -> dict[str, FeatureEffect]:
        table = effects(host, saes, steered(text), [FEATURES[name] for name in names])
        return dict(zip(names, table.effects, strict=True))

    both, either = change(b"A.B.*?Y", names), change(b"E.F.?Z", ("E", "F", "D"))

    assert both["A"].changes[-1] < -3
    assert both["B"].changes[-1] < -3
    assert both["C"].changes[-1] < -3
    assert abs(both["O"].changes[-1]) < 0.1
    assert both["A"].activations[0] == pytest.approx(1.0, abs=0.1)
    assert max(both["A"].activations[1:]) == 0.0
    assert min(either["E"].changes[-1], either["F"].changes[-1]) > 0.3 * either["D"].changes[-1]
    assert either["D"].changes[-1] < -3


def test_what_is_measured_when_it_is_stopped(tiny_host: HostModel) -> None:
    saes = tiny_saes(tiny_host)
    features = [FeatureRef("sae-0", n) for n in (3, 9, 20)]
    with steered_forward(tiny_host, saes) as forward:
        begun = study(forward, tiny_host, saes, steered(LONG), features, size=1)
        slices = begun.run()
        before = begun.result()
        counts = []
        for _ in slices:
            counts.append(len(begun.result().effects))

    assert (before.effects, before.complete) == ((), False)
    assert sorted(set(counts)) == [0, 1, 2]
    assert begun.result().complete
