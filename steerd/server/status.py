"""The table from kinds of failure to gRPC statuses, with details that programs can read (google.rpc)."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from steerd.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    SteerdError,
    Unavailable,
)

DOMAIN = "steerd.dev"

# Status and details travel in HTTP/2 headers, of which clients accept 8 KiB in all.
_MAX_MESSAGE_BYTES = 1024
_MAX_VIOLATION_BYTES = 2048

CODES: dict[type[SteerdError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_OUTCOMES: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.OK: "ok",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "rejected",
    grpc.StatusCode.UNAVAILABLE: "rejected",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.NOT_FOUND: "invalid",
    grpc.StatusCode.PERMISSION_DENIED: "invalid",
    grpc.StatusCode.ALREADY_EXISTS: "invalid",
    grpc.StatusCode.FAILED_PRECONDITION: "invalid",
    grpc.StatusCode.UNIMPLEMENTED: "invalid",
}

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """How one failure is told: status code, sentence, stable reason, and trailers with the details."""

    code: grpc.StatusCode
    message: str
    reason: str
    trailers: Metadata


def failure_of(error: SteerdError) -> Failure | None:
    """The failure to tell a client; None for a kind that no request can cause."""
    code = CODES.get(type(error))
    if code is None:
        return None
    retry_after = error.retry_after_seconds if isinstance(error, Overloaded) else None
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_metadata(error))]
    if isinstance(error, InvalidRequest):
        details.append(_bad_request(error))
    if retry_after is not None:
        details.append(RetryInfo(retry_delay=_duration(retry_after)))
    return _failure(code, str(error), error.reason, details, retry_after)


def internal_failure(incident: str) -> Failure:
    """The failure told for our own mistakes: an id to find the trace in the log, and nothing else."""
    details = [ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"incident": incident})]
    return _failure(grpc.StatusCode.INTERNAL, f"internal error, id {incident}", "INTERNAL", details, None)


def outcome_of(code: grpc.StatusCode) -> str:
    """The `outcome` label of steerd_requests_total for a status code."""
    return _OUTCOMES.get(code, "error")


def _failure(
    code: grpc.StatusCode, message: str, reason: str, details: list[Message], retry_after: float | None
) -> Failure:
    message = _clipped(message, _MAX_MESSAGE_BYTES)
    status = Status(code=code.value[0], message=message, details=[_packed(detail) for detail in details])
    trailers: Metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    if retry_after is not None:
        trailers += (("grpc-retry-pushback-ms", str(round(retry_after * 1000))),)
    return Failure(code, message, reason, trailers)


def _metadata(error: SteerdError) -> dict[str, str]:
    match error:
        case NotFound():
            return {"field": error.field}
        case Forbidden():
            return {"field": error.field, "policy": error.policy}
        case _:
            return {}


def _bad_request(error: InvalidRequest) -> BadRequest:
    """As many violations as fit, and one more that says how many did not."""
    bad_request, room = BadRequest(), _MAX_VIOLATION_BYTES
    for position, violation in enumerate(error.violations):
        description = _clipped(violation.description, 512)
        room -= len(violation.field.encode()) + len(description.encode())
        if room < 0:
            left_out = f"and {len(error.violations) - position} more violations"
            bad_request.field_violations.add(field="", description=left_out)
            break
        bad_request.field_violations.add(field=violation.field, description=description)
    return bad_request


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1_000_000_000) % 1_000_000_000)


def _clipped(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - 3].decode(errors="ignore") + "..."
