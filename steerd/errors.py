"""The kinds of failure that steerd reports to a user; anything else is our own mistake.

One table in `server/status.py` maps these kinds to gRPC status codes; the command lines print them as one
sentence. `reason` is a stable UPPER_SNAKE_CASE word for programs, the message is a sentence for people.
"""

from __future__ import annotations

from dataclasses import dataclass


class SteerdError(Exception):
    """A failure that the user can understand and act on."""

    reason = "STEERD_ERROR"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request: its path (`sampling.top_p`) and a sentence with the bound and the value."""

    field: str
    description: str


class InvalidRequest(SteerdError):
    """A request that breaks at least one stated bound; every broken field is listed."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: list[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class NotFound(SteerdError):
    """Something named in the request (an SAE, a feature) is not served here."""

    def __init__(self, message: str, *, reason: str, field: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class Forbidden(SteerdError):
    """What a policy of the server does not allow; `policy` is its name and version."""

    def __init__(self, message: str, *, field: str, policy: str, reason: str = "POLICY_DENIED") -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.policy = policy


class AlreadyExists(SteerdError):
    """A request id that is in use."""

    reason = "REQUEST_ID_IN_USE"


class FailedPrecondition(SteerdError):
    """What is asked for cannot be done with things as they are; nothing has changed."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Overloaded(SteerdError):
    """Refused now, worth a retry: the waiting line is full, or the client reads too slowly."""

    def __init__(self, message: str, *, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Unavailable(SteerdError):
    """The server is starting, draining or its engine has stopped."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeadlineExceeded(SteerdError):
    """A request that took longer than the server allows."""

    reason = "REQUEST_TOO_LONG"


class HostError(SteerdError):
    """The host model cannot be loaded, or has no such hook point."""

    reason = "HOST_ERROR"


class SaeFileError(SteerdError):
    """An SAE folder that is missing, damaged or not for this host."""

    reason = "SAE_FILE_ERROR"


class ConfigError(SteerdError):
    """A configuration file with an unknown key, a wrong type or a value out of bounds; `key` when known."""

    reason = "CONFIG_ERROR"

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class SelftestFailed(SteerdError):
    """The engine does other things with this host and these SAEs than a plain forward does."""

    reason = "SELFTEST_FAILED"
