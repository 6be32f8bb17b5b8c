"""Services that are given when the server runs already; until then their methods answer UNAVAILABLE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from steerd.errors import Unavailable

_STARTING = "the server is starting: its selftest runs"


class LateServices(grpc.GenericRpcHandler):
    """Finds the methods of some services. Servicers are added to it as to a server, at any time."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self._handlers: dict[str, Any] = {
            f"/{service.full_name}/{method.name}": _starting(is_stream=method.server_streaming)
            for service in services
            for method in service.methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method; None for one of no service."""
        return self._handlers.get(str(handler_call_details.method))

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """What generated code gives a server for other servers than ours."""

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Any]) -> None:
        """Answer the methods of a service from now on."""
        self._handlers |= {f"/{service_name}/{name}": handler for name, handler in handlers.items()}


def _starting(*, is_stream: bool) -> Any:
    make = grpc.unary_stream_rpc_method_handler if is_stream else grpc.unary_unary_rpc_method_handler
    return make(_refuse)


async def _refuse(request: Any, context: Any) -> NoReturn:  # noqa: ARG001  # a handler's signature
    raise Unavailable(_STARTING, reason="STARTING")
