"""LogitLens: the call to its message, and the server's answer to its own and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.steering.scope import PositionRange
from steerd.studies.lens_table import ChosenToken, LensCell, LensTable, LikelyToken
from steerd.study_wire.steered_text import (
    SteeredStudyText,
    applied_steering,
    applied_steering_message,
    steered_fields,
)
from steerd.study_wire.study_text import progress_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LensCall:
    """One LogitLens call. No layers: all; no positions: the last; tokens are their text or their ids."""

    steered: SteeredStudyText
    layers: tuple[int, ...] = ()
    positions: tuple[PositionRange, ...] = ()
    top: int | None = None
    tokens: tuple[str | int, ...] = ()
    request_id: str = ""
    max_seconds: float = 0.0


def lens_request(call: LensCall) -> pb.LogitLensRequest:
    """The message of a call."""
    return pb.LogitLensRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        layers=call.layers,
        positions=position_messages(call.positions),
        top_k=call.top,
        tokens=[token_message(token) for token in call.tokens],
        **steered_fields(call.steered),
    )


def lens_message(table: LensTable) -> pb.LogitLensResult:
    """The message of a result."""
    return pb.LogitLensResult(
        complete=table.complete,
        steering=applied_steering_message(table.steering),
        token_ids=table.token_ids,
        token_texts=table.token_texts,
        chosen_ids=table.chosen_ids,
        chosen_texts=table.chosen_texts,
        cells=[_cell_message(cell) for cell in table.cells],
    )


def lens_event(message: pb.LogitLensResponse) -> Progress | LensTable:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return LensTable(
        token_ids=tuple(result.token_ids),
        token_texts=tuple(result.token_texts),
        chosen_ids=tuple(result.chosen_ids),
        chosen_texts=tuple(result.chosen_texts),
        cells=tuple(map(_cell, result.cells)),
        steering=applied_steering(result.steering),
        complete=result.complete,
    )


def position_messages(positions: tuple[PositionRange, ...]) -> list[steering_pb2.PositionRange]:
    """Stretches of positions."""
    return [steering_pb2.PositionRange(start=each.start, end=each.end) for each in positions]


def token_message(token: str | int) -> pb.TokenChoice:
    """One token of the host, by its text or its id."""
    return pb.TokenChoice(text=token) if isinstance(token, str) else pb.TokenChoice(id=token)


def _cell_message(cell: LensCell) -> pb.LensCell:
    return pb.LensCell(
        layer=cell.layer,
        position=cell.position,
        top_ids=[token.token_id for token in cell.top],
        top_texts=[token.text for token in cell.top],
        top_logprobs=[token.logprob for token in cell.top],
        chosen_logprobs=[token.logprob for token in cell.chosen],
        chosen_ranks=[token.rank for token in cell.chosen],
    )


def _cell(message: pb.LensCell) -> LensCell:
    return LensCell(
        layer=message.layer,
        position=message.position,
        top=tuple(map(LikelyToken, message.top_ids, message.top_texts, message.top_logprobs)),
        chosen=tuple(map(ChosenToken, message.chosen_logprobs, message.chosen_ranks)),
    )
