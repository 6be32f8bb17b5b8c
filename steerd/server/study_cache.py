"""Results of studies by a hash of all that they depend on."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes


def study_key(host: HostModel, saes: LoadedSaes, wish: object) -> str:
    """The hash of a study: host and SAEs by their weights, how often they were reloaded, as with that the
    labels may change, and the wish, a dataclass of plain data whose printed form tells all of it."""
    digest = hashlib.sha256(f"{host.content_hash}\0{saes.generation}".encode())
    for name, identity in sorted(saes.identities.items()):
        digest.update(f"\0{name}\0".encode() + identity)
    digest.update(f"\0{wish!r}".encode())
    return digest.hexdigest()


class StudyCache:
    """The results that were asked for last, at most `size` of them. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[str, Any] = OrderedDict()  # of studies of any kind, hence Any

    def get(self, key: str) -> Any | None:
        """The result of that key; None when there is none."""
        if key in self._results:
            self._results.move_to_end(key)
        return self._results.get(key)

    def put(self, key: str, result: Any) -> None:
        """Keep a result instead of the one that was not asked for longest."""
        self._results[key] = result
        self._results.move_to_end(key)
        while len(self._results) > self._size:
            self._results.popitem(last=False)
