"""The whole study: planted truth found, prefixes of it told, the engine's thread and modes endured."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from steerd.errors import InvalidRequest
from steerd.host.host_model import HostModel
from steerd.host.int8_head import quantize_head
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.intervention import Add, FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.attribution.metric import AnswerLogprob, Metric, TokenLogit
from steerd.studies.attribution.rank_correlation import rank_correlation
from steerd.studies.attribution.result import Attribution, NodeKind, NodeRole
from steerd.studies.attribution.study import Attributing
from steerd.studies.attribution.wish import AttributionWish, Method
from tests.engine.recorder import StepLog, submit
from tests.engine.requests import LONG, edit, greedy_request
from tests.engine.serving import serving
from tests.engine.studies import begin
from tests.planted_host import EARLY, FEATURES, LATE, PUSHES, make_planted_host, planted_saes
from tests.studies.attribution.tiny_prompts import loaded, random_ids
from tests.tiny_hosts import make_tiny_host

QUESTION = "x+AB*EFS?"
YES, NO = TokenLogit(ord("Y")), TokenLogit(ord("Z"))
PLANTED = {ref: name for name, ref in FEATURES.items()}


@pytest.fixture(scope="module")
def planted() -> tuple[HostModel, LoadedSaes]:
    host = make_planted_host()
    return host, planted_saes(host)


def wish_for(text: str, metric: Metric, **changes) -> AttributionWish:
    values = {"saes": (EARLY, LATE), "controls": 5, **changes}
    return AttributionWish(prompt_ids=tuple(text.encode()), metric=metric, **values)


def attributed(planted, wish: AttributionWish, slice_tokens: int = 64) -> Attribution:
    host, saes = planted
    return attributed_with(host, [saes.get(name) for name in wish.saes], wish, slice_tokens)


def attributed_with(host: HostModel, saes, wish: AttributionWish, slice_tokens: int = 64) -> Attribution:
    study = Attributing(host, saes, wish, slice_tokens=slice_tokens)
    for _ in study.run():
        pass
    return study.result()


def by_name(result: Attribution, *, share: float = 0.02) -> dict[str, float]:
    """Attributions of the planted features, those that are tiny beside the largest left out."""
    features = [node for node in result.nodes if node.role is NodeRole.TOP and node.kind is NodeKind.FEATURE]
    largest = max(abs(node.attribution) for node in features)
    kept = [node for node in features if abs(node.attribution) > share * largest]
    return {PLANTED[FeatureRef(node.sae, node.feature)]: node.attribution for node in kept}


@pytest.mark.parametrize("method", [Method.GRADIENT, Method.INTEGRATED_GRADIENTS])
@pytest.mark.parametrize("answer", ["Y", "Z"])
def test_exactly_the_planted_features_are_found(planted, method, answer):
    result = attributed(planted, wish_for(QUESTION, TokenLogit(ord(answer)), method=method))

    found = by_name(result)
    assert set(found) == PUSHES[answer]
    assert all(effect > 0 for effect in found.values())
    where = {
        PLANTED[FeatureRef(n.sae, n.feature)]: n.position
        for n in result.nodes
        if n.kind is NodeKind.FEATURE and n.role is NodeRole.TOP
    }
    for name in found:
        assert where[name] == QUESTION.index(name if name in "ABEFS" else "?")


def named_edges(result: Attribution) -> dict[tuple[str, str], float]:
    """Weights of the edges between planted features, and from these into the answer."""
    names = [PLANTED.get(FeatureRef(n.sae, n.feature)) for n in result.nodes]
    ends = [(names[e.source], "answer" if e.target < 0 else names[e.target], e.weight) for e in result.edges]
    return {(source, target): weight for source, target, weight in ends if source and target}


def test_exactly_the_planted_edges_are_found(planted):
    question = "x+AB*S?"
    everything = wish_for(question, YES, method=Method.GRADIENT, node_threshold=1.0, edge_threshold=1.0)

    edges = named_edges(attributed(planted, everything))
    pruned = named_edges(
        attributed(planted, dataclasses.replace(everything, node_threshold=0.98, edge_threshold=0.98))
    )

    circuit = {("A", "C"), ("B", "C"), ("Q", "C"), ("S", "G"), ("C", "answer"), ("G", "answer")}
    leading_nowhere = {("A", "A late"), ("A", "A moved"), ("P", "R")}
    # An activation is about 1, and the answer's logit gains 10 by C and 3 by G.
    strong = {
        (source, target)
        for (source, target), w in edges.items()
        if abs(w) > (0.3 if target == "answer" else 0.1)
    }
    assert strong == circuit | leading_nowhere
    assert set(pruned) == circuit
    assert edges["C", "answer"] == pytest.approx(10, rel=0.1)
    assert edges["G", "answer"] == pytest.approx(3, rel=0.1)
    assert edges["S", "G"] == pytest.approx(1, rel=0.1)


def test_each_top_feature_is_taken_out_beside_controls(planted):
    result = attributed(planted, wish_for(QUESTION, YES, controls=4))

    tried = [node for node in result.nodes if node.measured is not None]
    active = sum(total.num_active for total in result.totals)
    top = [node for node in tried if node.role is NodeRole.TOP]
    inactive = [node for node in tried if node.role is NodeRole.RANDOM_INACTIVE]
    assert len(top) == active  # fewer than max_nodes, so that none is left to be drawn
    assert len(inactive) == 4
    assert all(node.measured == pytest.approx(0, abs=1e-4) and node.attribution == 0 for node in inactive)
    measured = {PLANTED[FeatureRef(n.sae, n.feature)]: n.measured for n in top if abs(n.measured) > 0.05}
    assert set(measured) == PUSHES["Y"]
    assert measured["C"] == pytest.approx(10, abs=0.3)
    assert measured["A"] == pytest.approx(10, abs=0.3)  # an AND: without A there is no C
    assert result.check is not None
    assert result.check.checked == len(tried)
    assert result.check.rank_correlation == pytest.approx(result.check.rank_correlation_top)
    assert result.check.mean_effect_top > 1
    assert result.check.mean_effect_random_inactive < 1e-4


def test_random_active_controls_are_none_of_the_top(planted):
    result = attributed(planted, wish_for(QUESTION, YES, max_nodes=3, controls=4, graph=False))

    features = [(n.sae, n.feature, n.position) for n in result.nodes if n.kind is NodeKind.FEATURE]
    drawn = [node for node in result.nodes if node.role is NodeRole.RANDOM_ACTIVE]
    assert len(set(features)) == len(features) == 3 + 4 + 4
    assert all(node.activation > 0 for node in drawn)
    assert min(abs(node.attribution) for node in result.nodes[:3]) >= max(abs(n.attribution) for n in drawn)
    assert result.edges == ()


def test_a_difference_of_answers_is_moved_by_what_tells_them_apart(planted):
    tokens = attributed(planted, wish_for("xAB?", TokenLogit(ord("Y"), ord("Z")), check=False, graph=False))
    answers = attributed(
        planted, wish_for("xAB?", AnswerLogprob(tuple(b"Y."), tuple(b"Z")), check=False, graph=False)
    )

    assert set(by_name(tokens, share=0.05)) == {"A", "B", "C", "Q"}
    assert set(by_name(answers, share=0.05)) == {"A", "B", "C", "Q"}


def test_the_first_token_and_special_ones_have_nodes_only_when_asked(planted):
    host, _ = planted
    wish = dataclasses.replace(
        wish_for("AAB?", YES), prompt_ids=(ord("A"), ord("A"), 256, ord("B"), ord("?"))
    )

    without = attributed(planted, wish)
    everything = attributed(planted, dataclasses.replace(wish, include_special_tokens=True))

    assert {256} <= host.special_token_ids
    assert {node.position for node in without.nodes} <= {1, 3, 4}
    assert {node.position for node in everything.nodes} >= {0, 1, 3, 4}


def test_stopped_at_any_slice_it_tells_what_is_known_by_then(planted):
    host, saes = planted
    wish = wish_for(QUESTION, YES)
    study = Attributing(host, [saes.get(EARLY), saes.get(LATE)], wish, slice_tokens=40)
    assert math.isnan(study.result().value)
    assert study.result().nodes == ()

    told, progress = [], []
    for each in study.run():
        progress.append(each)
        told.append(study.result())

    assert [each.done for each in progress] == list(range(1, len(progress) + 1))
    assert progress[-1].done == progress[-1].total
    assert not any(result.complete for result in told)
    assert study.result().complete
    growing = [(len(r.totals), sum(n.measured is not None for n in r.nodes), len(r.edges) > 0) for r in told]
    assert growing == sorted(growing)
    assert growing[0] == (0, 0, False)
    assert {size for size, _, _ in growing} == {0, 1, 2}
    assert len({measured for _, measured, _ in growing}) > 2
    assert dataclasses.replace(told[-1], complete=True) == study.result()


def test_stopped_before_the_paths_it_tells_what_plain_gradients_say(planted):
    host, saes = planted
    wish = wish_for(QUESTION, YES)
    study = Attributing(host, [saes.get(EARLY), saes.get(LATE)], wish, slice_tokens=40)
    next(iter(study.run()))

    found = study.result()

    rough = attributed(planted, dataclasses.replace(wish, method=Method.GRADIENT, check=False, graph=False))
    assert found.totals == ()
    assert found.nodes == rough.nodes
    assert len(found.nodes) > 5


def test_the_strongest_features_of_each_sae_are_taken_out_first(planted):
    host, saes = planted
    wish = wish_for(QUESTION, YES, graph=False)
    study = Attributing(host, [saes.get(EARLY), saes.get(LATE)], wish, slice_tokens=40)

    sizes = []
    for _ in study.run():
        top = [node for node in study.result().nodes if node.role is NodeRole.TOP and node.feature >= 0]
        measured = [node.measured is not None for node in top]
        sizes.append(sum(measured))
        assert not any(measured) or measured[0]
        for name in (EARLY, LATE):
            of_sae = [done for node, done in zip(top, measured, strict=True) if node.sae == name]
            assert of_sae == sorted(of_sae, reverse=True)

    assert len({*sizes, 0, len(top)}) > 3


def test_an_sae_without_active_features_has_no_paths():
    host = make_tiny_host()
    saes = loaded(host, "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    never = JumpReLU(threshold=torch.full((24,), 1e9))
    weights = {name: getattr(saes[0].sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    mute = dataclasses.replace(saes[0], sae=SparseAutoencoder(**weights, activation=never))
    wish = AttributionWish(
        prompt_ids=random_ids(1), metric=TokenLogit(65), saes=("sae-0", "sae-1"), controls=2, graph=False
    )

    study = Attributing(host, [mute, saes[1]], wish, slice_tokens=64)
    *_, last = study.run()
    alone = attributed_with(host, saes[1:], dataclasses.replace(wish, saes=("sae-1",)))

    found = study.result()
    assert [total.num_active for total in found.totals] == [0, alone.totals[0].num_active]
    assert found.complete
    assert last.done == last.total
    mine = [(n.feature, n.position, n.attribution) for n in found.nodes if n.sae == "sae-1"]
    theirs = [(n.feature, n.position, n.attribution) for n in alone.nodes if n.sae == "sae-1"]
    assert mine[:50] == theirs[:50]
    assert study._effects.num_slices(8) == 1 + 2


def test_slices_of_any_size_give_the_same(planted):
    wish = wish_for(QUESTION, YES)

    small, large = (attributed(planted, wish, slice_tokens=tokens) for tokens in (1, 500))

    assert [(n.sae, n.feature, n.position) for n in small.nodes] == [
        (n.sae, n.feature, n.position) for n in large.nodes
    ]
    assert [n.attribution for n in small.nodes] == pytest.approx(
        [n.attribution for n in large.nodes], abs=1e-3
    )
    assert [e.weight for e in small.edges] == pytest.approx([e.weight for e in large.edges], abs=1e-2)


def test_beside_requests_of_an_engine_it_gives_what_it_gives_alone():
    host, alone = make_tiny_host(), make_tiny_host()
    point = "blocks.1.hook_resid_post"
    wish = AttributionWish(
        prompt_ids=random_ids(1), metric=TokenLogit(65), saes=("sae-0",), max_nodes=8, controls=2
    )

    with serving(StepLog(), host=host, study_share=1.0) as engine:
        recorder = submit(engine, greedy_request("steered", LONG, 20, edit("sae-0", 3, Add(2.0))))
        recorder.wait_for_tokens(1)
        studied = begin(engine, Attributing(host, loaded(host, point), wish, slice_tokens=64))
        recorder.wait()
        found = studied.wait()

    expected = attributed_with(alone, loaded(alone, point), wish)
    assert isinstance(found, Attribution)
    assert found.complete
    assert found.value == pytest.approx(expected.value, abs=1e-4)
    assert [(n.feature, n.position) for n in found.nodes] == [(n.feature, n.position) for n in expected.nodes]
    assert [n.attribution for n in found.nodes] == pytest.approx(
        [n.attribution for n in expected.nodes], abs=1e-4
    )


def test_a_host_in_bfloat16_is_attributed_in_float32():
    host, exact = (make_tiny_host(dtype=dtype, seed=3) for dtype in (torch.bfloat16, torch.float32))
    exact.model.load_state_dict(host.model.state_dict())
    wish = AttributionWish(prompt_ids=random_ids(4), metric=TokenLogit(65), saes=("sae-0",), controls=2)

    coarse, fine = (
        attributed_with(each, loaded(each, "blocks.1.hook_resid_post"), wish) for each in (host, exact)
    )

    assert coarse.complete
    values = {(n.kind, n.feature, n.position): n.attribution for n in fine.nodes}
    pairs = [(n.attribution, values.get((n.kind, n.feature, n.position), 0.0)) for n in coarse.nodes]
    assert rank_correlation(*zip(*pairs, strict=True)) > 0.9


def test_a_host_without_gradients_is_refused():
    host = make_tiny_host()
    quantize_head(host.model)
    wish = AttributionWish(prompt_ids=random_ids(1), metric=TokenLogit(65), saes=("sae-0",))

    with pytest.raises(InvalidRequest, match="method: every method needs gradients"):
        next(iter(Attributing(host, loaded(host, "blocks.1.hook_resid_post"), wish, slice_tokens=64).run()))
