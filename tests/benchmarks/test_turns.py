"""Systems that wait for each other."""

from __future__ import annotations

import threading

import pytest
import torch

from benchmarks.generation_systems import sharing_weights
from benchmarks.paced_systems import Ask, PacedContinuousBatching, PacedEngine, PacedGenerate, engine_config
from benchmarks.turns import Gate, PacedSystem, num_new_tokens, take_turns
from steerd.host.host_model import HostModel

PROMPTS = [list(range(50 + row, 57 + row)) for row in range(3)]


class Noting:
    """Takes no time, and notes its turns."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def step(self) -> float:
        self.turns.append(self.name)
        return float(len(self.turns))


def test_every_round_begins_with_another_system() -> None:
    turns: list[str] = []

    seconds = take_turns({name: Noting(name, turns) for name in "abc"}, 3)

    assert "".join(turns) == "abcbcacab"
    assert seconds == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_gate_holds_a_thread_after_each_step() -> None:
    gate, taken = Gate(), [0]

    def run() -> None:
        for number in range(1, 6):
            taken[0] = number
            gate.step_done(decodes=number == 2)

    thread = threading.Thread(target=run)
    thread.start()
    gate.wait()
    assert taken == [1]
    assert not gate.decodes
    gate.let_through()
    assert taken == [2]
    assert gate.decodes
    gate.open()
    thread.join()
    assert taken == [5]


def test_what_ends_a_thread_is_raised() -> None:
    gate = Gate()

    gate.fail(ValueError("too bad"))

    with pytest.raises(ValueError, match="too bad"):
        gate.wait()


def paced_systems(host: HostModel, num_new: int) -> dict[str, PacedSystem]:
    config = engine_config(host, PROMPTS, num_new)
    return {
        "engine": PacedEngine(sharing_weights(host), [], config, Ask()),
        "generate": PacedGenerate(sharing_weights(host)),
        "continuous batching": PacedContinuousBatching(sharing_weights(host), config),
    }


def test_systems_decode_side_by_side_on_the_same_weights(tiny_host: HostModel) -> None:
    num_new = num_new_tokens(3, PROMPTS, 512)
    systems = paced_systems(tiny_host, num_new)
    rows: list[int] = []
    noting = tiny_host.model.register_forward_hook(lambda *_: rows.append(1))

    for system in systems.values():
        system.begin(PROMPTS, num_new)
    seconds = take_turns(systems, 3)
    for system in systems.values():
        system.end()
    noting.remove()

    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(systems, 3)
    assert all(time > 0 for times in seconds.values() for time in times)
    assert all(system.prefill_seconds > 0 for system in systems.values())
    assert rows == []  # the host that was shared ran nothing itself


def test_a_host_that_shares_weights_has_hooks_of_its_own(tiny_host: HostModel) -> None:
    other = sharing_weights(tiny_host)
    assert other.model is not tiny_host.model
    for ours, theirs in zip(other.model.parameters(), tiny_host.model.parameters(), strict=True):
        assert ours is theirs
    ids = torch.tensor([PROMPTS[0]])
    plain = tiny_host.model(ids).logits
    handle = other.model.register_forward_hook(lambda *_: pytest.fail("ran the other host's hook"))
    assert torch.equal(tiny_host.model(ids).logits, plain)
    handle.remove()
    assert torch.equal(other.model(ids).logits, plain)
