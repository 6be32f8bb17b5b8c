"""The hook points that are read or edited: their tables, and the hooks in the host."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import Handle, HostModel
from steerd.steering.edit_tables import EditTables
from steerd.steering.lane_tables import LaneTables
from steerd.steering.point_table import PointTable
from steerd.steering.room import Room
from steerd.steering.steered_point import SteeredPoint


@dataclass(frozen=True, slots=True)
class HookedPoint:
    """What belongs to one hook point: its columns, edits, lanes and hook.

    `edits` are what requests ask for, `demanded` what policies do.
    """

    table: PointTable
    edits: EditTables
    demanded: EditTables
    lanes: LaneTables
    hook: SteeredPoint = field(default_factory=SteeredPoint)

    @property
    def versions(self) -> tuple[int, ...]:
        """Of all its tables."""
        return self.table.version, self.edits.version, self.demanded.version, self.lanes.version


class HookedPoints:
    """By hook point, all that were ever needed; a hook is attached when its point is first asked for."""

    def __init__(self, host: HostModel, room: Room | None = None) -> None:
        """With a Room the tables stay in their places."""
        self._host = host
        self._room = room
        self._points: dict[HookPoint, HookedPoint] = {}
        self._handles: list[Handle] = []

    def __getitem__(self, hook_point: HookPoint) -> HookedPoint:
        """Raises HostError for a hook point that the host does not have."""
        if hook_point not in self._points:
            self._points[hook_point] = self._attached(hook_point)
        return self._points[hook_point]

    def all(self) -> Collection[HookedPoint]:
        """All points with a hook."""
        return self._points.values()

    @property
    def attached(self) -> Collection[HookPoint]:
        """Where they are."""
        return self._points.keys()

    def items(self) -> ItemsView[HookPoint, HookedPoint]:
        """The same by hook point."""
        return self._points.items()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Inside, the hooks leave every forward alone; then what was planned for them stands again."""
        planned = [(point.hook, point.hook.step) for point in self.all()]
        for hook, _ in planned:
            hook.step = None
        try:
            yield
        finally:
            for hook, step in planned:
                hook.step = step

    def close(self) -> None:
        """Detach every hook."""
        for handle in self._handles:
            handle.remove()

    def _attached(self, hook_point: HookPoint) -> HookedPoint:
        device, room = self._host.device, self._room
        point = HookedPoint(
            table=PointTable(self._host.d_model, device, is_fixed=room is not None),
            edits=EditTables(device, room),
            demanded=EditTables(device, room),
            lanes=LaneTables(device, room),
        )
        self._handles.append(self._host.attach(hook_point, point.hook))
        return point
