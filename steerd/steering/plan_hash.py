"""What steers a request as canonical bytes: equal bytes do the same to the same rows.

A value is a tag and its parts, each with its length, so that no two different values have the same bytes.
Dataclasses are walked field by field, so that a new field counts from its first day. SAEs go by their weights
and hook point, directions by their hash: names may be given to others later.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum

from steerd.steering.intervention import FeatureRef, Intervention, WholeSae
from steerd.steering.sae_identity import tagged
from steerd.steering.scope import Schedule, Scope
from steerd.steering.steering import Steering

Identities = Mapping[str, bytes]
"""By the names of the served SAEs, what `sae_identity` says of each."""


def plan_hash(host_hash: str, steering: Steering, known: Identities) -> str:
    """64 hex digits that depend on the host's weights and on all that is done to its rows, in this order."""
    steers = canonical_bytes(replace(steering, roles=(), warnings=()), known)
    return hashlib.sha256(tagged("plan", host_hash.encode(), steers)).hexdigest()


def edit_bytes(intervention: Intervention, known: Identities) -> bytes:
    """What an intervention does to a row; on which rows and how strongly there, its factors say.

    Its condition and how many rows it edits at most are no part of the factors.
    """
    bounded = Schedule(at_most=intervention.schedule.at_most)
    return canonical_bytes(replace(intervention, scope=Scope(), schedule=bounded), known)


def canonical_bytes(value: object, known: Identities) -> bytes:
    """A value of the steering's data types; a field that takes no part in comparisons takes none here."""
    match value:
        case None:
            return tagged("none")
        case bool():
            return tagged("bool", bytes([value]))
        case int():
            return tagged("int", str(value).encode())
        case float():
            return tagged("float", struct.pack("<d", value))
        case str():
            return tagged("text", value.encode())
        case Enum():
            return tagged(type(value).__name__, value.name.encode())
        case FeatureRef(sae, index):
            return tagged("feature", known[sae], canonical_bytes(index, known))
        case WholeSae(sae):
            return tagged("sae", known[sae])
        case tuple():
            return tagged("tuple", *_each(value, known))
        case frozenset():
            return tagged("set", *sorted(_each(value, known)))
        case _ if is_dataclass(value):
            compared = [field.name for field in fields(value) if field.compare]
            parts = (part for name in compared for part in (name, getattr(value, name)))
            return tagged(type(value).__name__, *_each(parts, known))
        case _:
            raise AssertionError(f"no canonical bytes for {value!r}")


def _each(values: Iterable[object], known: Identities) -> list[bytes]:
    return [canonical_bytes(value, known) for value in values]
