"""Room that is taken once for all steps to come, where what hooks read and write must stay in its place."""

from __future__ import annotations

from dataclasses import dataclass

PADDING_SLOT = 0
"""With a Room, that of the request that nobody's rows are of, and that wants nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """For steps of so many rows at most, and so many requests that run at once.

    A step that was recorded is run again by the addresses of its tensors, whatever lies there then. So with a
    Room no shape depends on what is asked, tables that were needed once stay in use (a table of nothing
    changes nothing), and their `version` tells when one had to move after all. Rows may be nobody's then.
    """

    rows: int
    requests: int
