"""How far a study is, for who waits at a terminal."""

from __future__ import annotations

from collections.abc import Callable

from steerd.cli.terminal import open_console
from steerd.engine.study import Progress


def progress_teller() -> Callable[[Progress], None]:
    """What shows on a terminal how far a study is."""
    console = open_console(stderr=True)

    def tell(progress: Progress) -> None:
        if console.is_terminal:
            console.print(f"{progress.done} of {progress.total} {progress.unit}", style="dim")

    return tell
