"""Forwards that are given up between two layers as soon as something else is wanted more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


class GivenUp(Exception):  # no error: what the forward was for may be done later
    """A forward was given up; nothing of it may be used."""


@contextmanager
def giving_way(host: HostModel, must_end: Callable[[], bool]) -> Iterator[None]:
    """Have forwards in this block raise GivenUp before the first layer at which `must_end` says so.

    A forward that it never ends is bit-identical. `must_end` is asked once a layer, on the forward's thread.
    """

    def check(_rows: Tensor) -> None:
        if must_end():
            raise GivenUp

    layers = range(host.num_layers)
    handles = [host.attach(HookPoint(layer, "resid_pre"), check, first=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
