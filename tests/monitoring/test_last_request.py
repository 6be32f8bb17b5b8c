"""The last request's tokens and shades: against naive keeping of everything, and on a running server."""

from __future__ import annotations

import json
import random
from math import nan
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from steerd.config import MonitoringConfig, WatchedFeature
from steerd.config_file import parse_config
from steerd.engine.events import FailedEvent
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.errors import ConfigError
from steerd.monitoring import last_request
from steerd.monitoring.last_request import LastRequest
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.monitoring.test_metrics import GREEDY, finished
from tests.monitoring.test_watched_metrics import feature, step, watch_list
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.waiting import wait_until

WATCH = watch_list(feature(3), feature(9), feature(12))


def spelled() -> LastRequest:
    """One whose tokens are called by their ids."""
    last = LastRequest()
    last.read_tokens(lambda ids: [f"<{token_id}>" for token_id in ids])
    return last


def request(name: str, prompt: int, **fields: Any) -> GenerationRequest:
    return GenerationRequest(id=name, prompt_ids=tuple(range(prompt)), sampling=GREEDY, **fields)


def end(last: LastRequest, ended: GenerationRequest) -> None:
    last.request_finished(ended, finished(), None)


def told(last: LastRequest, feature: int | None = None) -> dict[str, Any]:
    found = last.told(feature)
    assert found is not None
    return found


def test_random_requests_are_told_as_they_were_read() -> None:
    chance = random.Random()
    last = spelled()
    rows: dict[str, list[list[float]]] = {name: [] for name in "abc"}
    lengths = {name: chance.randint(1, 9) for name in rows}
    new: dict[str, list[int]] = {name: [] for name in rows}
    for _ in range(40):
        acts, positions, sampled = {}, [], {}
        for name in chance.sample([*rows, ""], chance.randint(1, 4)):
            count = chance.randint(1, 4) if name in rows and len(rows[name]) < lengths[name] else 1
            acts[name] = [
                [chance.choice([0.0, chance.uniform(0, 6)]) for _ in range(3)] for _ in range(count)
            ]
            positions.append(len(rows.get(name, [])))
            if name in rows:
                rows[name] += acts[name]
                sampled[name] = chance.randrange(1000)
                new[name].append(sampled[name])
        last.step_finished(step(WATCH, acts, first_positions=positions, new_tokens=sampled))

    for number, name in enumerate(rows, 1):
        end(last, request(name, lengths[name]))

        assert last.number == number
        for chosen in (None, 0, 1, 2):
            found = told(last, chosen)
            ids = [*range(lengths[name]), *new[name]]
            assert [token[0] for token in found["tokens"]] == [f"<{token_id}>" for token_id in ids]
            for position, token in enumerate(found["tokens"]):
                read = rows[name][position] if position < len(rows[name]) else [0.0] * 3
                mine = [read[chosen]] if chosen is not None else read
                if max(mine) == 0:
                    assert token[1:] == []
                else:  # all three have a recorded maximum of 4
                    strongest = read.index(max(mine))
                    assert token[1:] == [
                        strongest,
                        pytest.approx(max(mine), abs=1e-4),
                        pytest.approx(min(max(mine) / 4, 1), abs=1e-3),
                    ]


def test_without_a_recorded_maximum_the_largest_of_the_request_is_the_measure() -> None:
    watch = WatchList([feature(3), feature(9)], max_activation=[nan, 10.0], density=[nan, 0.5])
    last = spelled()

    last.step_finished(step(watch, {"r": [[2.0, 4.0], [1.0, 6.0]]}, first_positions=[0]))
    end(last, request("r", 2))

    assert [token[1:] for token in told(last)["tokens"]] == [[0, 2.0, 1.0], [1, 6.0, 0.6]]
    assert told(last)["features"] == [["a", "3", "f3"], ["a", "9", "f9"]]


def test_nothing_is_told_before_a_request_has_run_to_its_end() -> None:
    last = spelled()
    assert (last.told(None), last.number) == (None, 0)

    last.step_finished(step(WATCH, {"fails": [[1.0, 1.0, 1.0]], "": [[1.0, 1.0, 1.0]]}))
    last.request_finished(request("fails", 2), FailedEvent(RuntimeError()), None)
    last.request_finished(request("never ran", 2), finished(FinishReason.CANCELLED), None)

    assert (last.told(None), last.number) == (None, 0)


def test_a_scored_text_is_told_whole() -> None:
    last = spelled()

    last.step_finished(step(WATCH, {"r": [[0, 1, 0], [0, 2, 0]]}, first_positions=[1], new_tokens={"r": 7}))
    end(last, request("r", 2, continuation=(50, 51)))

    found = told(last)
    assert found["rpc"] == "Score"
    assert [token[0] for token in found["tokens"]] == ["<0>", "<1>", "<50>", "<51>"]
    assert [len(token) for token in found["tokens"]] == [1, 4, 4, 1]


def test_readings_of_a_former_list_are_told_of_no_more() -> None:
    last, other = spelled(), watch_list(feature(40))

    last.step_finished(step(WATCH, {"r": [[1.0, 0.0, 5.0]]}, first_positions=[0], new_tokens={"r": 5}))
    last.step_finished(step(other, {"r": [[3.0]]}, first_positions=[1], new_tokens={"r": 6}))
    end(last, request("r", 1))

    found = told(last)
    assert found["tokens"] == [["<0>"], ["<5>", 0, 3.0, 0.75], ["<6>"]]
    assert not found["complete"]


def test_what_is_kept_of_running_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_request, "MAX_ENTRIES", 5)
    last = spelled()
    for position in range(4):
        acts = {"long": [[1.0, 1.0, 1.0]], "short": [[0.0, 1.0 * (position == 0), 0.0]]}
        last.step_finished(step(WATCH, acts, first_positions=[position, position]))
    end(last, request("short", 4))
    assert told(last)["complete"]

    end(last, request("long", 4))
    assert not told(last)["complete"]
    assert [len(token) for token in told(last)["tokens"]] == [4, 1, 1, 1]

    last.step_finished(step(WATCH, {"next": [[1.0, 1.0, 1.0]]}, first_positions=[0]))
    end(last, request("next", 1))
    assert told(last)["complete"]  # there is room again


def test_of_a_long_text_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_request, "MAX_TOKENS", 3)
    last = spelled()

    last.step_finished(step(WATCH, {"r": [[1.0, 0.0, 0.0]] * 5}, first_positions=[0], new_tokens={"r": 9}))
    end(last, request("r", 5))

    found = told(last)
    assert found["first"] == 3
    assert [token[0] for token in found["tokens"]] == ["<3>", "<4>", "<9>"]
    assert [len(token) for token in found["tokens"]] == [4, 4, 1]


def test_requests_whose_end_was_dropped_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_request, "_MAX_RUNNING", 2)
    monkeypatch.setattr(last_request, "MAX_ENTRIES", 6)
    last = spelled()

    for name in "abc":
        last.step_finished(step(WATCH, {name: [[1.0, 1.0, 1.0]]}, first_positions=[0]))
    end(last, request("a", 1))
    assert last.number == 0

    end(last, request("c", 1))
    assert told(last)["complete"]


def test_a_server_tells_what_its_client_was_told() -> None:
    watched = (
        WatchedFeature(sae="late", index=3, alias="third"),
        WatchedFeature(sae="early", index=7, alias="seventh"),
    )
    monitoring = MonitoringConfig(port=0, watch=watched, page_tokens=True, request_log="off")
    capture = pb.Capture(watch=[FeatureRef(sae=w.sae, index=w.index) for w in watched], include_prompt=True)
    asked = pb.GenerateRequest(
        prompt="the cat", sampling=pb.SamplingParams(max_new_tokens=6), capture=capture, request_id="mine"
    )
    with RunningServer(tiny_config(monitoring=monitoring), *tiny_parts()) as server:
        generated = server.generate(asked)
        url = f"http://127.0.0.1:{server.app.scrape_endpoint.port}"

        def ask(path: str) -> Any:
            with urlopen(f"{url}/{path}", timeout=60) as reply:
                return json.load(reply)

        wait_until(lambda: bool(ask("live.json")["last_request"] == 1))
        strongest, seventh = ask("tokens.json"), ask("tokens.json?feature=1")
        tokenizer = server.host.tokenizer

    assert (strongest["request_id"], strongest["outcome"], strongest["prompt_tokens"]) == (
        "mine",
        "length",
        7,
    )
    ids = [token_id for message in generated.messages for token_id in message.delta.token_ids]
    assert [token[0] for token in strongest["tokens"][:7]] == list("the cat")
    assert "".join(token[0] for token in strongest["tokens"][7:]) == tokenizer.decode(ids)
    values = {reading.position: reading.values[0] for reading in generated.readings if reading.sae == "early"}
    read = [values.get(position, 0.0) if position else 0.0 for position in range(len(seventh["tokens"]))]
    found = [token[2] if len(token) > 1 else 0.0 for token in seventh["tokens"]]
    assert found == pytest.approx(read, abs=1e-3)
    assert any(found)


def test_a_server_shows_no_text_unless_it_is_told_to() -> None:
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        server.generate(pb.GenerateRequest(prompt="tell-tale", sampling=pb.SamplingParams(max_new_tokens=2)))
        url = f"http://127.0.0.1:{server.app.scrape_endpoint.port}"
        pages = [
            urlopen(f"{url}/{path}", timeout=60).read().decode() for path in ("tokens.json", "live.json")
        ]

    assert pages[0].startswith("# HELP")
    assert json.loads(pages[1])["last_request"] == 0
    assert "tell-tale" not in "".join(pages)


def test_tokens_without_a_page_are_refused() -> None:
    with pytest.raises(ConfigError, match="page_tokens must be false where"):
        parse_config({"monitoring": {"page": False, "page_tokens": True}}, folder=Path())


def test_a_request_may_be_told_of_twice() -> None:
    """Ids come back: an id that ran before starts from nothing."""
    last = spelled()
    for token_id in (5, 6):
        last.step_finished(step(WATCH, {"r": [[1, 0, 0]]}, first_positions=[0], new_tokens={"r": token_id}))
        end(last, request("r", 1))

    assert [token[0] for token in told(last)["tokens"]] == ["<0>", "<6>"]
    assert last.number == 2
