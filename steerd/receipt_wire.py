"""Receipts to protobuf and back, for the server that gives them and the client that reads them."""

from __future__ import annotations

from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.steering.receipt import (
    HookPointReceipt,
    InterventionReceipt,
    Receipt,
    SwitchReceipt,
    TriggerReceipt,
)


def receipt_message(receipt: Receipt, plan_hash: str) -> pb.Receipt:
    """The receipt of a request whose steering has that hash."""
    return pb.Receipt(
        plan_hash=plan_hash,
        interventions=[
            pb.InterventionReceipt(
                rows=part.rows,
                rows_changed=part.rows_changed,
                mean_relative_norm=part.mean_relative_norm,
                mean_before=part.mean_before,
                mean_after=part.mean_after,
            )
            for part in receipt.interventions
        ],
        hook_points=[
            pb.HookPointReceipt(
                hook_point=part.hook_point,
                rows_changed=part.rows_changed,
                mean_relative_norm=part.mean_relative_norm,
                max_relative_norm=part.max_relative_norm,
            )
            for part in receipt.hook_points
        ],
        fired=[
            pb.TriggerReceipt(
                trigger=part.name,
                action=pb.TriggerAction.Value(f"TRIGGER_ACTION_{part.action.upper()}"),
                source=part.source,
                times=part.times,
                first_position=part.first_position,
            )
            for part in receipt.fired
        ],
        switched=None if receipt.switched is None else _switch_message(receipt.switched),
    )


def _switch_message(switched: SwitchReceipt) -> pb.SwitchReceipt:
    return pb.SwitchReceipt(preset=switched.preset, first_position=switched.first_position)


def receipt(message: pb.Receipt) -> Receipt:
    """What steering did, as a message tells it."""
    return Receipt(
        interventions=tuple(
            InterventionReceipt(
                rows=part.rows,
                rows_changed=part.rows_changed,
                mean_relative_norm=part.mean_relative_norm,
                mean_before=part.mean_before,
                mean_after=part.mean_after,
            )
            for part in message.interventions
        ),
        hook_points=tuple(
            HookPointReceipt(
                hook_point=part.hook_point,
                rows_changed=part.rows_changed,
                mean_relative_norm=part.mean_relative_norm,
                max_relative_norm=part.max_relative_norm,
            )
            for part in message.hook_points
        ),
        fired=tuple(
            TriggerReceipt(
                name=part.trigger,
                action=pb.TriggerAction.Name(part.action).removeprefix("TRIGGER_ACTION_").lower(),
                source=part.source,
                times=part.times,
                first_position=part.first_position,
            )
            for part in message.fired
        ),
        switched=_switched(message.switched) if message.HasField("switched") else None,
    )


def _switched(message: pb.SwitchReceipt) -> SwitchReceipt:
    return SwitchReceipt(message.preset, message.first_position)
