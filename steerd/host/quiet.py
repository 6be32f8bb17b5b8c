"""Keep transformers' progress bars and warnings out of a server's streams while a host is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from logging import ERROR

from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers reports errors only and draws no progress bars; afterwards it is as before."""
    verbosity = logging.get_verbosity()
    drew_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it unannotated
    try:
        with redirect_stderr(StringIO()):  # the GGUF reader draws a bar that knows no switch
            yield
    finally:
        logging.set_verbosity(verbosity)
        if drew_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # as above
