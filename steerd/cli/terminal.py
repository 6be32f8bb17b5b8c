"""The consoles that the subcommands print to."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

_WIDTH_WITHOUT_TERMINAL = 160  # in a file or a pipe nothing else says how wide a table may be


def open_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets in a model's text are not markup."""
    console = Console(highlight=False, markup=False, stderr=stderr)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console


def print_warnings(warnings: Iterable[str]) -> None:
    """Print what the server warns of, apart from what was asked for."""
    console = open_console(stderr=True)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")
