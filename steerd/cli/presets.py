"""`steerd presets`: the steering that a server's operator has prepared, and the policies in force."""

from __future__ import annotations

import argparse

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.tables import edit_text
from steerd.cli.terminal import open_console
from steerd.client import Client
from steerd.client_views import Allowed, ServedPolicy


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("presets", help="list the presets that requests can name, and the policies")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line a preset, and one a policy if there is any."""
    with Client(options.address) as client:
        presets, policies = client.presets(), client.policies()
    table = Table("preset", "version", "what it does", "description")
    for preset in presets:
        does = ", ".join([*map(edit_text, preset.interventions), *preset.triggers])
        table.add_row(preset.named.name, preset.named.version, does, preset.description)
    console = open_console()
    console.print(table)
    if policies:
        console.print(policies_table(policies))
    return 0


def policies_table(policies: list[ServedPolicy]) -> Table:
    """What each policy does to every request, and what it leaves requests to ask for."""
    table = Table("policy", "version", "what it does", "allowed", "cap", "description")
    for policy in policies:
        table.add_row(
            policy.named.name,
            policy.named.version,
            ", ".join([*map(edit_text, policy.interventions), *policy.triggers]),
            "anything" if policy.allowed is None else _allowed_text(policy.allowed),
            "" if policy.max_dose is None else f"{policy.max_dose:.7g}, {policy.over_dose}",
            policy.description,
        )
    return table


def _allowed_text(allowed: Allowed) -> str:
    parts = [*allowed.features]
    parts += ["directions"] * allowed.directions + ["reconstructions"] * allowed.reconstruct
    parts += [f"preset {name}" for name in allowed.presets]
    return ", ".join(parts) or "nothing"
