"""Receipts to protobuf and back, for the server that gives them and the client that reads them."""

from __future__ import annotations

from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt


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
    )


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
    )
