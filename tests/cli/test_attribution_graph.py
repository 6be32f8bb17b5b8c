"""The graph file against the form that the viewers ask for, written down from their sources."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steerd.cli.attribution_graph import graph_json, node_ids
from steerd.studies.attribution.metric import AnswerLogprob
from steerd.studies.attribution.result import NodeKind
from tests.cli.attributions import attribution

# From apps/webapp/app/api/graph/graph-schema.json of hijohnnylin/neuronpedia (version 1.0.0) and from
# circuit_tracer/frontend/graph_models.py of circuit-tracer, the stricter of both: field, types, required.
NUMBER = (int, float)
METADATA = {
    "slug": (str, True),
    "scan": (str, True),
    "transcoder_list": (list, True),
    "prompt_tokens": (list, True),
    "prompt": (str, True),
    "node_threshold": (NUMBER, False),
    "schema_version": (int, False),
    "feature_details": (dict, False),
    "info": (dict, False),
    "generation_settings": (dict, False),
    "pruning_settings": (dict, False),
}
INFO = {
    "description": (str, False),
    "creator_name": (str, False),
    "creator_url": (str, False),
    "source_urls": (list, False),
    "generator": (dict, False),
    "create_time_ms": (NUMBER, False),
}
QPARAMS = {
    "pinnedIds": (list, True),
    "supernodes": (list, True),
    "linkType": (str, True),
    "clickedId": (str, True),
    "sg_pos": (str, True),
}
NODE = {
    "node_id": (str, True),
    "feature": (int, True),
    "layer": (str, True),
    "ctx_idx": (int, True),
    "feature_type": (str, True),
    "token_prob": (NUMBER, True),
    "is_target_logit": (bool, True),
    "run_idx": (int, True),
    "reverse_ctx_idx": (int, True),
    "jsNodeId": (str, True),
    "clerp": (str, True),
    "influence": ((*NUMBER, type(None)), False),
    "activation": ((*NUMBER, type(None)), False),
}
LINK = {"source": (str, True), "target": (str, True), "weight": (NUMBER, True)}
FEATURE_TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def assert_form(
    value: dict[str, Any], form: dict[str, tuple[Any, bool]], *, more: frozenset[str] = frozenset()
) -> None:
    assert {name for name, (_, required) in form.items() if required} <= value.keys()
    assert value.keys() <= form.keys() | more
    for name, (types, _) in form.items():
        if name in value:
            assert isinstance(value[name], types), name
            assert types is not int or not isinstance(value[name], bool), name


def made(**changes: Any) -> dict[str, Any]:
    text = json.dumps(graph_json(attribution(**changes), slug="sea", node_threshold=0.8, edge_threshold=0.98))
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_file_has_the_form_that_the_viewers_read():
    graph = made()

    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    assert_form(graph["metadata"], METADATA)
    assert_form(graph["metadata"]["info"], INFO)
    assert_form(
        graph["metadata"]["pruning_settings"],
        {"node_threshold": (NUMBER, False), "edge_threshold": (NUMBER, False)},
    )
    assert_form(graph["qParams"], QPARAMS)
    for node in graph["nodes"]:
        assert_form(node, NODE, more=frozenset({"sae", "attribution", "measured"}))
        assert node["feature_type"] in FEATURE_TYPES
        assert 0 <= node["ctx_idx"] < len(graph["metadata"]["prompt_tokens"])
        assert node["layer"] == "E" or node["layer"].isdigit()
    for link in graph["links"]:
        assert_form(link, LINK)


def test_links_join_nodes_and_ids_are_unique():
    graph = made()

    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert len(graph["links"]) == 5


def test_nodes_are_named_and_numbered_as_circuit_tracer_does():
    nodes = {node["node_id"]: node for node in made()["nodes"]}

    assert set(nodes) == {"2_3_3", "2_3_3_late mlp", "1_5_1", "1_-1_2", "E_12_1", "4_9_3"}
    feature, error, embedding, logit = (nodes[name] for name in ("1_5_1", "1_-1_2", "E_12_1", "4_9_3"))
    assert (feature["feature"], feature["layer"], feature["jsNodeId"]) == (
        26,
        "1",
        "1_5-0",
    )  # (1+5)(1+5+1)/2 + 5
    assert (feature["activation"], feature["influence"]) == (2.0, 0.4)
    assert (error["feature"], error["jsNodeId"], error["activation"]) == (-1, "1_-1-2", None)
    assert error["clerp"].startswith("Err: ")
    assert "mlp" not in error["clerp"]
    assert (embedding["feature"], embedding["layer"], embedding["jsNodeId"]) == (1, "E", "E_12-1")
    assert (logit["layer"], logit["jsNodeId"], logit["is_target_logit"]) == ("4", "L_9-3", True)
    assert logit["clerp"] == 'Output " calm" - " rough" (p=0.125)'
    assert nodes["2_3_3"]["clerp"].endswith("[0.81]")
    assert nodes["2_3_3"]["measured"] == 1.25


def test_an_answer_of_several_tokens_is_named_by_its_first():
    graph = made(metric=AnswerLogprob((9, 10)), answer_texts=(" calmer",))

    logit = graph["nodes"][-1]
    assert logit["node_id"] == "4_9_3"
    assert logit["clerp"] == 'Output " calmer" (p=0.125)'


def test_without_a_graph_only_the_answer_is_there():
    graph = made(edges=(), nodes=())

    assert [node["feature_type"] for node in graph["nodes"]] == ["logit"]
    assert graph["links"] == []


@pytest.mark.parametrize("place", [3, 6])
def test_nodes_outside_the_graph_have_no_id(place):
    found = attribution()

    assert place not in node_ids(found)
    assert found.nodes[place].kind is NodeKind.FEATURE
