"""Readings -> wire."""

from __future__ import annotations

from steerd.engine.events import TokenReading
from steerd.pb.v1 import generation_service_pb2 as pb


def reading_message(reading: TokenReading) -> pb.TokenReading:
    """The activations of one token in one SAE."""
    return pb.TokenReading(
        position=reading.position,
        sae=reading.sae,
        features=reading.features,
        values=reading.values,
        values_after=reading.values_after,
    )
