"""What is told of triggers that fired."""

from __future__ import annotations

from steerd.__main__ import make_parser
from steerd.cli.fired_lines import fired_line, receipt_lines
from steerd.cli.generate import generate_call
from steerd.client_messages import Firing
from steerd.steering.receipt import Receipt, SwitchReceipt, TriggerReceipt


def test_each_feature_is_told_with_its_tokens() -> None:
    call = generate_call(
        make_parser().parse_args(
            ["generate", "Hi", "--stop-on", "s:5=2", "--flag-on", "s:6=7", "--flag-on", "s:7=7"]
        )
    )
    end, seen, _ = (trigger.name for trigger in call.triggers)
    fired = (Firing(seen, 3), Firing(seen, 12), Firing(end, 13))

    line = fired_line(fired, call.triggers, {12: " cat", 13: " dog"})

    assert line == "fired: s:5 at ' dog' (13); s:6 at position 3, ' cat' (12)"


def test_what_the_request_did_not_ask_for_is_told_with_its_source() -> None:
    fired = (
        TriggerReceipt("trigger-0", "flag", "", 2, 3),
        TriggerReceipt("over", "switch", "preset:careful@1", 1, 4),
        TriggerReceipt("far", "stop", "policy:halt@2", 3, 5),
    )

    assert list(receipt_lines(Receipt(fired=fired, switched=SwitchReceipt("calm@1", 6)))) == [
        "fired: over of preset careful@1, to switch, once at position 4",
        "fired: far of policy halt@2, to stop, 3 times, first at position 5",
        "switched to calm@1 from position 6 on",
    ]
    assert list(receipt_lines(Receipt(fired=fired[:1]))) == []
