"""What the edge tells the metrics. Labels are from closed sets: nothing a client sends becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC as metrics name it: `unary` or `server_stream` and so on, full service name, method name."""

    type: str
    service: str
    method: str


REFLECTION_RPC = Rpc(
    type="bidi_stream", service="grpc.reflection.v1alpha.ServerReflection", method="ServerReflectionInfo"
)
UNKNOWN_RPC = Rpc(type="unary", service="_OTHER", method="_OTHER")


class EdgeObserver(Protocol):
    """Told of every RPC, on the event loop; must return at once."""

    def rpc_served(self, rpc: Rpc) -> None:
        """This RPC is served: its series start at 0."""

    def rpc_started(self, rpc: Rpc) -> None: ...

    def rpc_finished(self, rpc: Rpc, *, code: str, outcome: str, seconds: float, request_id: str) -> None:
        """`code` is the status code's name in capitals, `outcome` its class; `request_id` is "" for none."""

    def request_rejected(self, reason: str) -> None:
        """Refused or ended for want of room; `reason` as in ErrorInfo."""

    def messages_sent(self, messages: int, coalesced_tokens: int) -> None:
        """Messages of a stream, and tokens that shared a message with an earlier one."""
