"""One generation, printed while it comes."""

from __future__ import annotations

from rich.console import Console

from steerd.cli.token_painter import TokenPainter
from steerd.client import Client
from steerd.client_messages import Delta, Event, GenerateCall, Generation, collect


def show_stream(client: Client, call: GenerateCall, console: Console) -> Generation:
    """Print the text, coloured by the first watched feature; returns all of the stream."""
    painter = TokenPainter(next(iter(call.watch), None))
    events: list[Event] = []
    for event in client.stream(call):
        events.append(event)
        if isinstance(event, Delta):
            for text in painter.paint(event):
                console.print(text, end="", soft_wrap=True)
    for text in painter.finish():
        console.print(text, end="", soft_wrap=True)
    console.print()
    return collect(iter(events))
