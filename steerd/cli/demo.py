"""`steerd demo`: a server of its own, baseline and steered text over gRPC, and the metrics; then it ends."""

from __future__ import annotations

import argparse
import tempfile
import urllib.request
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rich.console import Console

from steerd.cli.labels import Labels, brief_label_of, served_labels
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.cli.stream import show_stream
from steerd.cli.tables import active, speed_line, token_table
from steerd.cli.terminal import open_console
from steerd.client import Client
from steerd.client_messages import ChatTurn, GenerateCall, Unit
from steerd.steering.intervention import Add, FeatureRef, Intervention

_SAE = "starter-14"
_START_SECONDS = 300.0  # the first start converts the default host
_STOP_SECONDS = 60.0
_METRICS_SECONDS = 10.0
_SHOWN_TOKENS = 12
_SHOWN_FEATURES = 3

_SHOWN_METRICS = (
    "steerd_requests_total",
    "steerd_generation_tokens_total",
    "steerd_time_to_first_token_seconds_sum",
    "steerd_steering_applied_tokens_total",
    "steerd_feature_active_tokens_total",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A feature of a starter SAE and a prompt that has nothing to do with it.

    `strength` is in multiples of the feature's recorded maximum; `alias` is its name on dashboards.
    """

    feature: int
    alias: str
    strength: float
    prompt: str


_PROMPT = "What did you do today?"

SCENES = (
    Scene(feature=2296, alias="god", strength=0.7, prompt=_PROMPT),
    Scene(feature=145, alias="doctor", strength=0.7, prompt=_PROMPT),
    Scene(feature=1823, alias="weather", strength=1.0, prompt=_PROMPT),
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("demo", help="start a server, steer it, show its metrics, stop it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:  # noqa: ARG001  # every subcommand is given its options
    """The whole demonstration; returns the exit status of the server."""
    console = open_console()
    with tempfile.TemporaryDirectory(prefix="steerd-demo-") as folder:
        grpc_port, metrics_port = free_ports(2)
        address = f"127.0.0.1:{grpc_port}"
        config = Path(folder) / "demo.toml"
        config.write_text(demo_config(grpc_port, metrics_port))
        console.print("Starting a server with the default host model and the starter SAEs")
        with server_process(config, log=Path(folder) / "server.log") as process:
            seconds = wait_until_serving(process, address, timeout_seconds=_START_SECONDS)
            console.print(f"Serving on {address} after {seconds:.1f} s")
            with Client(address) as client:
                show_scenes(client, console)
            show_metrics(f"http://127.0.0.1:{metrics_port}/metrics", console)
            status = stop(process, timeout_seconds=_STOP_SECONDS)
    console.print(f"\nSIGTERM: the server drained and ended with status {status}")
    return status


def demo_config(grpc_port: int, metrics_port: int) -> str:
    """The defaults on other ports, with the scenes' features exported as metrics."""
    watched = "".join(
        f'\n[[monitoring.watch]]\nsae = "{_SAE}"\nindex = {scene.feature}\nalias = "{scene.alias}"\n'
        for scene in SCENES
    )
    return f"[server]\nport = {grpc_port}\n\n[monitoring]\nport = {metrics_port}\n{watched}"


def show_scenes(client: Client, console: Console) -> None:
    """Each prompt as the host answers it, then with one feature after the other."""
    labels = served_labels(client.address, (FeatureRef(_SAE, scene.feature) for scene in SCENES))
    for prompt, scenes in groupby(SCENES, key=lambda scene: scene.prompt):
        baseline = GenerateCall(chat=(ChatTurn("user", prompt),), temperature=0.0, max_new_tokens=48)
        console.rule(f"Prompt: {prompt}", align="left")
        console.print("Without steering", style="bold")
        show_stream(client, baseline, console)
        for scene in scenes:
            show_scene(client, console, baseline, scene, labels)


def show_scene(
    client: Client, console: Console, baseline: GenerateCall, scene: Scene, labels: Labels
) -> None:
    """The steered text, and what was active in its first tokens."""
    feature = FeatureRef(_SAE, scene.feature)
    call = replace(
        baseline,
        interventions=(Intervention(target=feature, operation=Add(scene.strength)),),
        unit=Unit.FEATURE_MAX,
        watch=(feature,),
        top_features=_SHOWN_FEATURES,
        top_features_of=(_SAE,),
    )
    console.print(
        f"\nWith feature {scene.feature}, {brief_label_of(feature, labels)!r}, added at "
        f"{scene.strength:g} times its recorded maximum (orange: where it was active before the edit)",
        style="bold",
    )
    generation = show_stream(client, call, console)
    console.print(speed_line(generation.completed), style="dim")
    tokens = generation.tokens[:_SHOWN_TOKENS]
    read = (feature for reading in generation.readings for feature, _ in active(reading))
    console.print(token_table(tokens, generation.readings, call.watch, served_labels(client.address, read)))


def show_metrics(url: str, console: Console) -> None:
    """The lines of the metrics page that this demonstration moved."""
    with urllib.request.urlopen(url, timeout=_METRICS_SECONDS) as page:
        lines = page.read().decode().splitlines()
    console.rule(f"Metrics at {url} ({sum(not line.startswith('#') for line in lines)} series)", align="left")
    for line in lines:
        if line.startswith(_SHOWN_METRICS) and not line.endswith(" 0.0"):
            console.print(line)
