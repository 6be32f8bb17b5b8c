"""The connection that the clients of a server share the making of, and how its failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from steerd.errors import SteerdError

DEFAULT_ADDRESS = "127.0.0.1:50051"

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 2**20),
    # A server that is just starting is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class RemoteError(SteerdError):
    """A call that failed: gRPC's code, the server's reason and message, and when a retry may help."""

    def __init__(self, message: str, *, code: str, reason: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


def open_channel(address: str) -> grpc.Channel:
    """A connection to a server; it is made when the first call needs it."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


@contextmanager
def failures(address: str) -> Iterator[None]:
    """Inside, every failure of a call is a RemoteError."""
    try:
        yield
    except grpc.RpcError as error:
        raise _remote_error(error, address) from error


def _remote_error(error: grpc.RpcError, address: str) -> RemoteError:
    """The server's own words where it sent any; gRPC's otherwise."""
    code = error.code().name
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error) or status_pb2.Status(message=error.details() or "no details")
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    wait = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    where = f" (no server at {address}?)" if code == "UNAVAILABLE" and not info.reason else ""
    return RemoteError(
        f"{status.message}{where}", code=code, reason=info.reason or code, retry_after_seconds=wait
    )
