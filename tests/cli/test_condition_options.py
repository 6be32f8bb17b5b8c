"""What is told of triggers that fired."""

from __future__ import annotations

from steerd.__main__ import make_parser
from steerd.cli.condition_options import fired_line
from steerd.cli.generate import generate_call
from steerd.client_messages import Firing


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
