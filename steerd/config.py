"""Everything an operator can turn, in frozen sections; `config_file` reads them from TOML.

The defaults are written here: the default host on the CPU with the starter SAEs, on loopback. A Config that
exists is valid: a value out of bounds raises ConfigError with the key, the bound and the value.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from steerd.errors import ConfigError
from steerd.starters import STARTERS

DEFAULT_MODEL = "smollm2-135m-instruct"
MAX_SAES = 8
NAME = r"[A-Za-z0-9_.-]{1,64}"
MAX_WATCHED_FEATURES = 256
MAX_HOT_FEATURES = 48


def _between(low: float, high: float) -> dict[str, Any]:
    """Inclusive bounds of a number, as a field's metadata."""
    return {"low": low, "high": high}


def _matching(pattern: str) -> dict[str, Any]:
    """The pattern of a whole string, as a field's metadata."""
    return {"pattern": pattern}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The host model: an alias, a local folder or a hub id, and how it is held in memory.

    `weights` may be int8_head for a host on the CPU in float32: logits come sooner then and are less exact.
    """

    name: str = field(default=DEFAULT_MODEL, metadata=_matching(r".+"))
    dtype: str = field(default="float32", metadata=_matching(r"float32|bfloat16|float16"))
    device: str = field(default="cpu", metadata=_matching(r"[a-z]+(:\d+)?"))
    weights: str = field(default="as_loaded", metadata=_matching(r"as_loaded|int8_head"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeConfig:
    """One SAE to serve: the name that requests use, and its folder, or a starter's name."""

    name: str = field(metadata=_matching(NAME))
    path: str = field(metadata=_matching(r".+"))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How much the engine takes on at once. `max_batch_tokens` bounds the rows of one step.

    With `share_prefixes` a prompt takes over the keys and values of an earlier one that begins alike.
    `cuda_graphs` says whether decode steps are recorded once and run again by the device: `auto` where the
    device is a CUDA one and a trial at the start agrees with plain steps, `on` there or not at all.
    Studies (FeatureService) run between steps, in slices of about `study_tokens` rows, at most `max_studies`
    at once; while requests run they get at most `study_share` of the time. While none do, slices that read
    texts grow up to `idle_study_tokens` rows, and are given up between two layers when a request comes.
    """

    kv_cache_gib: float = field(default=0.5, metadata=_between(0.001, 4096))
    max_batch_tokens: int = field(default=512, metadata=_between(1, 65536))
    max_running_requests: int = field(default=32, metadata=_between(1, 1024))
    max_waiting_requests: int = field(default=64, metadata=_between(0, 65536))
    page_size: int = field(default=32, metadata=_between(4, 1024))
    share_prefixes: bool = True
    cuda_graphs: str = field(default="auto", metadata=_matching(r"auto|on|off"))
    study_tokens: int = field(default=256, metadata=_between(1, 65536))
    idle_study_tokens: int = field(default=1024, metadata=_between(1, 65536))
    study_share: float = field(default=0.25, metadata=_between(0.01, 1))
    max_studies: int = field(default=4, metadata=_between(0, 64))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Where gRPC listens and how long anything may take. Port 0 means any free one.

    There is no TLS yet, so a host that is not loopback is refused unless `insecure` says that this is meant.
    `admin` serves AdminService, which changes the server and knows no authentication yet: `auto` serves it
    where the host is loopback and nowhere else.
    With `require_selftest` the server tries itself out before it serves, with its health NOT_SERVING, and
    ends when that fails.
    """

    host: str = field(default="127.0.0.1", metadata=_matching(r"\S+"))
    port: int = field(default=50051, metadata=_between(0, 65535))
    insecure: bool = False
    admin: str = field(default="auto", metadata=_matching(r"auto|on|off"))
    require_selftest: bool = False
    drain_seconds: float = field(default=30.0, metadata=_between(0, 3600))
    max_request_seconds: float = field(default=600.0, metadata=_between(0.1, 86400))
    max_study_seconds: float = field(default=600.0, metadata=_between(0.1, 86400))
    slow_reader_seconds: float = field(default=30.0, metadata=_between(0.1, 3600))
    stall_seconds: float = field(default=30.0, metadata=_between(0.1, 3600))
    stream_buffer_events: int = field(default=1024, metadata=_between(2, 1_000_000))

    @property
    def serves_admin(self) -> bool:
        """Whether AdminService is served."""
        return self.admin == "on" or (self.admin == "auto" and _is_loopback(self.host))


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsConfig:
    """The bounds that each request must keep.

    `max_magnitude` bounds strengths, values and factors; `max_direction_values` is for all directions that a
    request edits and tests, `max_tests` for the tests of all its conditions, `max_scope_items` for the
    positions, token ids and roles of one scope. A study has at most `max_study_texts` texts of
    `max_text_tokens` each and `max_study_tokens` together, ranks at most `max_ranked_features` at a time,
    and tells at most `max_study_values` numbers of what it saw in one text. Where it needs gradients, a
    prompt and its answers have at most `max_gradient_tokens`, as all rows of all layers are kept in memory
    at once.
    """

    max_new_tokens: int = field(default=2048, metadata=_between(1, 1_000_000))
    default_max_new_tokens: int = field(default=256, metadata=_between(1, 1_000_000))
    max_prompt_characters: int = field(default=65536, metadata=_between(1, 10_000_000))
    max_interventions: int = field(default=64, metadata=_between(0, 1024))
    max_watched_features: int = field(default=256, metadata=_between(0, 4096))
    max_top_k: int = field(default=64, metadata=_between(0, 4096))
    max_stop_strings: int = field(default=8, metadata=_between(0, 64))
    max_stop_characters: int = field(default=64, metadata=_between(1, 4096))
    max_magnitude: float = field(default=1e6, metadata=_between(0.001, 1e9))
    max_direction_values: int = field(default=65536, metadata=_between(0, 10_000_000))
    max_scope_items: int = field(default=256, metadata=_between(0, 65536))
    max_continuations: int = field(default=64, metadata=_between(1, 4096))
    max_tests: int = field(default=16, metadata=_between(0, 48))
    max_triggers: int = field(default=8, metadata=_between(0, 48))
    max_presets: int = field(default=8, metadata=_between(0, 64))
    max_study_texts: int = field(default=2048, metadata=_between(1, 1_000_000))
    max_text_tokens: int = field(default=2048, metadata=_between(1, 1_000_000))
    max_study_tokens: int = field(default=262_144, metadata=_between(1, 100_000_000))
    max_gradient_tokens: int = field(default=512, metadata=_between(2, 1_000_000))
    max_ranked_features: int = field(default=1000, metadata=_between(1, 1_000_000))
    max_study_values: int = field(default=32_768, metadata=_between(1, 10_000_000))


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedTable:
    """A preset or a policy, by name and version.

    `table` is all that the file says of it, in the words of steerd.v1.Preset or steerd.v1.Policy; it can
    only be read when host and SAEs are there (`server/preset_book`, `server/policy_book`).
    """

    name: str = field(metadata=_matching(NAME))
    version: str = field(metadata=_matching(NAME))
    table: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeringConfig:
    """How much interventions may add at one hook point, in multiples of its median residual norm.

    A larger dose is told to the client (`warn`), brought down to the limit by weakening what is added there
    (`clamp`) or refused (`reject`).
    """

    max_dose: float = field(default=1.0, metadata=_between(0, 1e9))
    over_dose: str = field(default="warn", metadata=_matching(r"warn|clamp|reject"))


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedFeature:
    """A feature exported as metrics: `alias` is its name on dashboards, `threshold` in activation units.

    Of a `hot` one the largest activation of each request is exported too, as a histogram of multiples of its
    recorded maximum.
    """

    sae: str = field(metadata=_matching(NAME))
    index: int = field(metadata=_between(0, 2**31 - 1))
    alias: str = field(metadata=_matching(r"[a-z0-9_]{1,40}"))
    threshold: float = field(default=0.0, metadata=_between(0, 1e9))
    hot: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitoringConfig:
    """Where /metrics listens (port 0: any free one), and what is measured. `page`: the live page at / of the
    same port; with `page_tokens` it shows the text of the last request, token by token, to all who reach it.

    Every `sample_every`-th token is encoded whole to count its active features (0: none). What is measured
    waits in a queue of `queue_steps` steps and ends of requests for the thread that counts it; what finds no
    room there is dropped, and that is counted. Watch lists that are set while the server runs are kept in
    `watch_file`, if that is set, which goes before `watch` at the next start.
    `request_log` takes a JSON line at the end of each request: `stderr`, `off` or a file. There is no text of
    requests in it, unless `log_prompts` adds their prompts.
    `traces_endpoint` (http://host:4317, or https) takes a span of each request over OTLP; it needs the extra
    `otel`. Spans have no text of requests.
    """

    host: str = field(default="127.0.0.1", metadata=_matching(r"\S+"))
    port: int = field(default=9464, metadata=_between(0, 65535))
    page: bool = True
    page_tokens: bool = False
    sample_every: int = field(default=16, metadata=_between(0, 1_000_000))
    watch_file: str = ""
    request_log: str = field(default="stderr", metadata=_matching(r".+"))
    log_prompts: bool = False
    traces_endpoint: str = field(default="", metadata=_matching(r"(https?://[^\s/]+/?)?"))
    queue_steps: int = field(default=256, metadata=_between(1, 65536))
    watch: tuple[WatchedFeature, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All sections. Raises ConfigError when any of them breaks a bound."""

    model: ModelConfig = ModelConfig()
    saes: tuple[SaeConfig, ...] = tuple(SaeConfig(name=name, path=name) for name in STARTERS)
    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    steering: SteeringConfig = SteeringConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    presets: tuple[NamedTable, ...] = ()
    policies: tuple[NamedTable, ...] = ()

    def __post_init__(self) -> None:
        for name in ("model", "engine", "server", "limits", "steering", "monitoring"):
            _check_bounds(getattr(self, name), name)
        for position, sae in enumerate(self.saes):
            _check_bounds(sae, f"saes[{position}]")
        for key in ("presets", "policies"):
            tables: tuple[NamedTable, ...] = getattr(self, key)
            for position, table in enumerate(tables):
                _check_bounds(table, f"{key}[{position}]")
            _check_unique(key, (f"{table.name}@{table.version}" for table in tables))
        self._check_saes()
        self._check_weights()
        self._check_graphs()
        self._check_host()
        self._check_watch()
        self._check_page()
        self._check_batch()
        if self.limits.default_max_new_tokens > self.limits.max_new_tokens:
            refuse(
                "limits.default_max_new_tokens",
                f"at most limits.max_new_tokens, {self.limits.max_new_tokens}",
                self.limits.default_max_new_tokens,
            )

    def _check_page(self) -> None:
        if self.monitoring.page_tokens and not self.monitoring.page:
            refuse("monitoring.page_tokens", "false where monitoring.page is", True)

    def _check_batch(self) -> None:
        engine = self.engine
        if engine.max_batch_tokens < engine.max_running_requests:  # each that runs has at least one row
            bound = f"at least engine.max_running_requests, {engine.max_running_requests}"
            refuse("engine.max_batch_tokens", bound, engine.max_batch_tokens)

    def _check_weights(self) -> None:
        model = self.model
        if model.weights == "int8_head" and (model.dtype, model.device) != ("float32", "cpu"):
            bound = "as_loaded, as int8_head is for float32 on the cpu"
            refuse("model.weights", f"{bound} and not for {model.dtype} on {model.device}", model.weights)

    def _check_graphs(self) -> None:
        device = self.model.device
        if self.engine.cuda_graphs == "on" and not device.startswith("cuda"):
            bound = f"auto or off where model.device is {device}, as only CUDA devices record steps"
            refuse("engine.cuda_graphs", bound, self.engine.cuda_graphs)

    def _check_saes(self) -> None:
        if len(self.saes) > MAX_SAES:
            refuse("saes", f"at most {MAX_SAES} entries", len(self.saes))
        _check_unique("saes.name", (sae.name for sae in self.saes))

    def _check_host(self) -> None:
        server = self.server
        if not (server.insecure or _is_loopback(server.host)):
            bound = "a loopback address, since there is no TLS, or server.insecure (--insecure) be set"
            refuse("server.host", bound, server.host)

    def _check_watch(self) -> None:
        check_watch(self.monitoring.watch, "monitoring.watch")
        names = [sae.name for sae in self.saes]
        for position, watched in enumerate(self.monitoring.watch):
            if watched.sae not in names:
                refuse(f"monitoring.watch[{position}].sae", f"one of the served SAEs {names}", watched.sae)


def check_watch(watch: Sequence[WatchedFeature], key: str) -> None:
    """Whether a watch list keeps its bounds; raises ConfigError, which says what breaks them under `key`."""
    for position, watched in enumerate(watch):
        _check_bounds(watched, f"{key}[{position}]")
    if len(watch) > MAX_WATCHED_FEATURES:
        refuse(key, f"at most {MAX_WATCHED_FEATURES} features", len(watch))
    num_hot = sum(watched.hot for watched in watch)
    if num_hot > MAX_HOT_FEATURES:
        refuse(f"{key}.hot", f"set for at most {MAX_HOT_FEATURES} features", num_hot)
    _check_unique(f"{key}.alias", (watched.alias for watched in watch))
    _check_unique(key, (f"{watched.sae}:{watched.index}" for watched in watch))


def default_saes(model_name: str) -> tuple[SaeConfig, ...]:
    """The SAEs that are served when none is named: the starters for the default host, none for another."""
    return Config().saes if model_name == DEFAULT_MODEL else ()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_bounds(section: object, key: str) -> None:
    for item in fields(section):  # type: ignore[arg-type]  # always one of the dataclasses above
        value, bounds = getattr(section, item.name), item.metadata
        if "low" in bounds and not bounds["low"] <= value <= bounds["high"]:
            refuse(f"{key}.{item.name}", f"between {bounds['low']} and {bounds['high']}", value)
        if "pattern" in bounds and not re.fullmatch(bounds["pattern"], value):
            refuse(f"{key}.{item.name}", f"a string of the form {bounds['pattern']}", value)


def _check_unique(key: str, names: Iterable[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        refuse(key, "unique", repeated[0])


def refuse(key: str, bound: str, value: object) -> NoReturn:
    """Raise the ConfigError of a setting that is not what it must be."""
    raise ConfigError(f"{key} must be {bound}; got {value!r}", key=key)
