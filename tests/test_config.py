"""The configuration: strict, complete, and each complaint names key, bound and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerd.config import DEFAULT_MODEL, Config, SaeConfig, WatchedFeature, default_saes
from steerd.config_file import load_config, parse_config
from steerd.errors import ConfigError
from steerd.starters import STARTERS

SAE = {"name": "a", "path": "x"}


def watch(**fields: Any) -> dict[str, Any]:
    entry = {"sae": "a", "index": 1, "alias": "one"} | fields
    return {"saes": [SAE], "monitoring": {"watch": [entry]}}


def test_nothing_said_means_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "steerd.toml"
    empty.write_text("")

    assert load_config(empty) == Config()
    assert [(sae.name, sae.path) for sae in Config().saes] == [(name, name) for name in STARTERS]
    assert Config().server.host == "127.0.0.1"


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "steerd.toml"
    path.write_text(
        """
        [model]
        name = "some/host"
        dtype = "bfloat16"
        device = "cuda:0"

        [[saes]]
        name = "topics"
        path = "saes/topics"

        [[saes]]
        name = "mine"
        path = "starter-14"

        [engine]
        kv_cache_gib = 2

        [server]
        port = 0
        insecure = true

        [limits]
        max_new_tokens = 4096

        [monitoring]
        port = 9999

        [[monitoring.watch]]
        sae = "topics"
        index = 12
        alias = "cats"
        threshold = 3
        """
    )

    config = load_config(path)

    assert (config.model.name, config.model.dtype, config.model.device) == ("some/host", "bfloat16", "cuda:0")
    assert config.saes[0] == SaeConfig(name="topics", path=str(tmp_path / "saes/topics"))
    assert config.saes[1].path == "starter-14"
    assert config.engine.kv_cache_gib == 2.0
    assert isinstance(config.engine.kv_cache_gib, float)
    assert (config.server.port, config.server.insecure) == (0, True)
    assert config.limits.max_new_tokens == 4096
    assert config.monitoring.port == 9999
    assert config.monitoring.watch == (WatchedFeature(sae="topics", index=12, alias="cats", threshold=3.0),)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_need_no_leave(host: str) -> None:
    assert parse_config({"server": {"host": host}}, folder=Path()).server.host == host


def test_another_host_has_no_starter_sae() -> None:
    config = parse_config({"model": {"name": "other"}}, folder=Path())

    assert config.saes == ()
    assert default_saes(DEFAULT_MODEL) == Config().saes


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"sever": {}}, ["unknown key sever", "server"]),
        ({"server": {"prot": 1}}, ["unknown key server.prot", "port"]),
        ({"saes": [SAE | {"weights": "y"}]}, ["unknown key saes[0].weights", "name, path"]),
        (watch(feature=3), ["unknown key monitoring.watch[0].feature", "index"]),
        ({"server": {"port": "50051"}}, ["server.port", "type int", "'50051'"]),
        ({"server": {"port": True}}, ["server.port", "type int", "True"]),
        ({"server": {"insecure": 1}}, ["server.insecure", "type bool", "1"]),
        ({"engine": {"kv_cache_gib": "1"}}, ["engine.kv_cache_gib", "type float", "'1'"]),
        ({"model": {"name": 3}}, ["model.name", "type str", "3"]),
        ({"server": {"port": 65536}}, ["server.port", "between 0 and 65535", "65536"]),
        ({"engine": {"kv_cache_gib": float("nan")}}, ["engine.kv_cache_gib", "nan"]),
        ({"engine": {"page_size": 3}}, ["engine.page_size", "between 4 and", "3"]),
        ({"server": {"host": "0.0.0.0"}}, ["server.host must be a loopback", "'0.0.0.0'", "--insecure"]),
        ({"server": {"host": "example.org"}}, ["server.host must be a loopback", "'example.org'"]),
        ({"model": {"dtype": "int8"}}, ["model.dtype", "bfloat16", "'int8'"]),
        ({"engine": {"cuda_graphs": "yes"}}, ["engine.cuda_graphs", "auto|on|off", "'yes'"]),
        (
            {"engine": {"cuda_graphs": "on"}},
            ["engine.cuda_graphs", "auto or off where model.device is cpu", "'on'"],
        ),
        ({"model": {"weights": "int4"}}, ["model.weights", "as_loaded|int8_head", "'int4'"]),
        (
            {"model": {"weights": "int8_head", "dtype": "bfloat16"}},
            ["model.weights", "float32 on the cpu", "bfloat16 on cpu", "'int8_head'"],
        ),
        (
            {"model": {"weights": "int8_head", "device": "cuda"}},
            ["model.weights", "float32 on cuda", "'int8_head'"],
        ),
        ({"model": {"name": ""}}, ["model.name", "''"]),
        ({"server": 3}, ["server must be a table, [server]", "3"]),
        ({"saes": SAE}, ["saes", "[[saes]]"]),
        ({"saes": [{"name": "a"}]}, ["saes[0].path is missing"]),
        ({"saes": [SAE | {"name": "a:b"}]}, ["saes[0].name", "'a:b'"]),
        ({"saes": [SAE, SAE]}, ["saes.name must be unique", "'a'"]),
        ({"saes": [{"name": f"s{i}", "path": "x"} for i in range(9)]}, ["saes", "at most 8", "9"]),
        (watch(alias="Not Good"), ["monitoring.watch[0].alias", "[a-z0-9_]{1,40}", "'Not Good'"]),
        (watch(sae="lost"), ["monitoring.watch[0].sae", "['a']", "'lost'"]),
        (watch(index=-1), ["monitoring.watch[0].index", "between 0 and", "-1"]),
        (
            {"engine": {"max_batch_tokens": 31}},
            ["engine.max_batch_tokens", "at least engine.max_running_requests, 32", "31"],
        ),
        (
            {"limits": {"max_new_tokens": 10}},
            ["limits.default_max_new_tokens", "limits.max_new_tokens, 10", "256"],
        ),
    ],
)
def test_a_mistake_is_named(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables, folder=Path())

    for word in words:
        assert word in str(caught.value)


def test_the_watch_list_is_capped() -> None:
    entries = [{"sae": "a", "index": i, "alias": f"f{i}"} for i in range(257)]

    with pytest.raises(ConfigError, match=r"monitoring\.watch must be at most 256 features; got 257"):
        parse_config({"saes": [SAE], "monitoring": {"watch": entries}}, folder=Path())


@pytest.mark.parametrize("repeated", ["alias", "index"])
def test_a_feature_and_an_alias_are_watched_once(repeated: str) -> None:
    entries = [{"sae": "a", "index": 1, "alias": "one"}, {"sae": "a", "index": 2, "alias": "two"}]
    entries[1][repeated] = entries[0][repeated]

    with pytest.raises(ConfigError, match="unique"):
        parse_config({"saes": [SAE], "monitoring": {"watch": entries}}, folder=Path())


def test_what_is_no_toml_says_so(tmp_path: Path) -> None:
    path = tmp_path / "steerd.toml"
    path.write_text("[server\n")

    with pytest.raises(ConfigError, match=r"steerd\.toml is not TOML"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "lost.toml")


def preset(**fields: Any) -> dict[str, Any]:
    return {"presets": [{"name": "calm", "version": "1", "interventions": [], "any": 3} | fields]}


def test_presets_keep_their_tables_for_later() -> None:
    (read,) = parse_config(preset(), folder=Path()).presets

    assert (read.name, read.version) == ("calm", "1")
    assert read.table == preset()["presets"][0]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"presets": {}}, ["presets", "array of tables"]),
        ({"presets": [3]}, ["presets[0]", "table"]),
        ({"presets": [{"version": "1"}]}, ["presets[0].name", "missing"]),
        ({"presets": [{"name": "a"}]}, ["presets[0].version", "missing"]),
        (preset(version=1), ["presets[0].version", "str"]),
        (preset(name="a@b"), ["presets[0].name", "'a@b'"]),
        ({"presets": preset()["presets"] * 2}, ["presets", "unique", "calm@1"]),
    ],
)
def test_a_fault_of_a_presets_name_is_told(tables: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables, folder=Path())

    for word in words:
        assert word in str(caught.value)
