"""The packed steps, driven by hand, against the host's plain forward; and the memory they leave behind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from steerd.engine.continuous_batching import ContinuousBatch
from steerd.engine.prefix_pages import NO_PAGES, PromptPages, page_hashes
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from tests.tiny_hosts import make_tiny_host

PAGE = 4
# float32 logits near 10, rows summed in another order.
TOLERANCE = 1e-4

# All layers alike, or a window in some of them: 2 and 3 layers of a kind, so that neither divides the other.
UNEVEN = {
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 3,
    "tie_word_embeddings": False,
}
SCARCE = {"full": 10, "window": 5, "hybrid": 6, "uneven": 6, "wide": 12}  # blocks, for about three requests
HOSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("llama", {}),
    "window": ("mistral", {"sliding_window": 8}),
    "hybrid": ("gemma3", {"sliding_window": 8, "tie_word_embeddings": False}),
    "uneven": ("gemma2", UNEVEN | {"sliding_window": 8}),
    "wide": ("gemma2", UNEVEN | {"sliding_window": 4096}),
}


@dataclass
class Driver:
    """A batch whose requests continue greedily to their end, with the logits of each token."""

    host: HostModel
    num_blocks: int = 16
    max_batch_tokens: int = 64
    page: int = PAGE
    left: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    token_ids: dict[str, list[int]] = field(default_factory=dict)
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    scored: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch = ContinuousBatch(
            self.host,
            self.sample,
            kv_cache_gib=self.num_blocks * self.page * self.bytes_per_token() / 2**30,
            max_batch_tokens=self.max_batch_tokens,
            max_running_requests=64,
            page_size=self.page,
        )

    def bytes_per_token(self) -> int:
        config = self.host.model.config
        heads, layers = config.num_key_value_heads, config.num_hidden_layers
        return 2 * layers * heads * 8 * self.host.dtype.itemsize

    def sample(self, logits: Tensor, request_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        for row, request_id in zip(logits, request_ids, strict=True):
            self.logits[request_id].append(row.clone())
        return logits.argmax(dim=-1), torch.zeros(len(logits))

    def admit(
        self, request_id: str, prompt: Sequence[int], max_new_tokens: int, pages: PromptPages = NO_PAGES
    ) -> bool:
        admitted = self.batch.admit(request_id, prompt, max_new_tokens)
        if admitted:
            self.cached[request_id] = self.batch.begin(request_id, pages)
            self.token_ids[request_id], self.logits[request_id] = list(prompt), []
            self.left[request_id] = max_new_tokens
        return admitted

    def remove(self, request_id: str) -> None:
        self.batch.remove(request_id)
        del self.left[request_id]

    def step(self) -> bool:
        """Whether there was anything to do. Rows of prompts are scored where `scored` has their request."""
        with torch.inference_mode():
            packed = self.batch.pack()
            if not packed:
                return False
            first_rows = accumulate((rows.num_rows for rows in packed), initial=0)
            wanted = [
                (rows.request_id, first_row + row)
                for rows, first_row in zip(packed, first_rows, strict=False)
                if rows.request_id in self.scored
                for row in range(rows.num_rows)
            ]
            output = self.batch.run([row for _, row in wanted])
            for (request_id, _), logits in zip(wanted, output.scored, strict=True):
                self.scored[request_id].append(logits.clone())
            for token in output.new_tokens:
                self.token_ids[token.request_id].append(token.token_id)
                self.left[token.request_id] -= 1
                if self.left[token.request_id] == 0:
                    self.remove(token.request_id)
        return True

    def finish(self) -> None:
        """Run until every request has ended."""
        while self.left:
            assert self.step(), f"{list(self.left)} do not run"

    def blocks(self, request_id: str) -> list[int]:
        """Of a host whose layers are all alike."""
        (allocator,) = self.batch.cache.cache_allocators.values()
        return list(allocator.block_table.get(request_id, []))

    def assert_plain(self, plain: HostModel, request_id: str) -> None:
        """Every logit so far is that of the plain forward over the tokens before."""
        token_ids, logits = self.token_ids[request_id], torch.stack(self.logits[request_id])
        with torch.inference_mode():
            expected = plain.model(torch.tensor([token_ids[:-1]]), use_cache=False).logits[0, -len(logits) :]
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def prompt_of(length: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(256) for _ in range(length)]


@pytest.fixture(params=HOSTS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(kind: str) -> HostModel:
    architecture, overrides = HOSTS[kind]
    return make_tiny_host(architecture, **overrides)


def drive(kind: str, **options: int) -> Driver:
    architecture, overrides = HOSTS[kind]
    return Driver(make_tiny_host(architecture, **overrides), **options)


@pytest.mark.parametrize("max_batch_tokens", [64, 5])
def test_logits_are_those_of_the_plain_forward(kind: str, plain: HostModel, max_batch_tokens: int) -> None:
    """Prompts shorter and longer than the window, in chunks or at once, then some tokens each."""
    driver = drive(kind, num_blocks=64, max_batch_tokens=max_batch_tokens)
    lengths = {"short": 3, "window": 8, "long": 21, "one": 1}
    for number, (request_id, length) in enumerate(lengths.items()):
        assert driver.admit(request_id, prompt_of(length, number), 10)

    driver.finish()

    for request_id in lengths:
        driver.assert_plain(plain, request_id)


@pytest.mark.parametrize("max_batch_tokens", [64, 5])
def test_scored_rows_have_the_logits_of_the_plain_forward(
    kind: str, plain: HostModel, max_batch_tokens: int
) -> None:
    """Beside requests that only sample, whose tokens are what they were without."""
    driver = drive(kind, num_blocks=64, max_batch_tokens=max_batch_tokens)
    lengths = {"before": 7, "scored": 19, "between": 4, "scored too": 1, "after": 11}
    driver.scored = {"scored": [], "scored too": []}
    for number, (request_id, length) in enumerate(lengths.items()):
        assert driver.admit(request_id, prompt_of(length, number), 5)

    driver.finish()

    for request_id in lengths:
        driver.assert_plain(plain, request_id)
    for request_id, rows in driver.scored.items():
        with torch.inference_mode():
            ids = driver.token_ids[request_id][:-1]
            expected = plain.model(torch.tensor([ids]), use_cache=False).logits[0]
        torch.testing.assert_close(torch.stack(rows), expected, atol=TOLERANCE, rtol=0)


def test_a_request_as_large_as_the_memory_fits(kind: str, plain: HostModel) -> None:
    """And one token more would not, except where layers only keep a window."""
    driver = drive(kind, num_blocks=7)
    room = driver.batch.cache.num_tokens
    assert driver.admit("before", prompt_of(5, 0), 3)
    driver.finish()

    assert kind == "window" or not driver.admit("too large", prompt_of(room - 1, 1), 3)
    assert driver.admit("whole", prompt_of(room - 2, 1), 3), "it would wait for ever"
    driver.finish()

    driver.assert_plain(plain, "whole")


def test_what_an_earlier_request_left_in_the_memory_is_no_matter(kind: str, plain: HostModel) -> None:
    driver = drive(kind, num_blocks=12)
    driver.batch.cache.cache_tensor.fill_(0xFF)  # every float in it is now NaN
    for number, length in enumerate((9, 3, 14)):
        assert driver.admit(f"request-{number}", prompt_of(length, number), 4)

    driver.finish()

    for number in range(3):
        driver.assert_plain(plain, f"request-{number}")


def test_random_walk_keeps_the_memory_and_the_logits_whole(kind: str, plain: HostModel) -> None:
    """Requests come, run and go at random, more of them than fit."""
    chance = random.Random(kind)
    driver = drive(kind, num_blocks=SCARCE[kind], max_batch_tokens=9)
    cache = driver.batch.cache
    refused = 0
    for move in range(60):
        action = chance.random()
        if action < 0.45:
            prompt = prompt_of(chance.randint(1, 18), move)
            if not driver.admit(f"request-{move}", prompt, max_new_tokens=chance.randint(1, 6)):
                refused += 1
                assert driver.left, "the memory was free"
        elif action < 0.52 and driver.left:
            driver.remove(chance.choice(list(driver.left)))
        else:
            driver.step()
        assert (cache.used_bytes == 0) == (not driver.left)
        assert 0 <= cache.used_bytes <= cache.total_bytes
    driver.finish()

    assert refused > 1
    assert cache.used_bytes == 0
    sampled = [request_id for request_id, logits in driver.logits.items() if logits]
    assert len(sampled) > 4
    for request_id in sampled:
        driver.assert_plain(plain, request_id)


def kept(driver: Driver, request_id: str, num_tokens: int) -> Tensor:
    """What the memory holds of a request's first tokens: [layers, 2, tokens, heads, head_dim]."""
    page = driver.page
    blocks = driver.blocks(request_id)
    rows = torch.tensor([blocks[at // page] * page + at % page for at in range(num_tokens)], dtype=torch.long)
    views = [torch.stack(driver.batch.cache.layer_to_allocator[0]._kv_token_views[at]) for at in range(3)]
    return torch.stack(views)[:, :, rows]


def computed(plain: HostModel, token_ids: Sequence[int]) -> Tensor:
    """The same by the plain forward."""
    with torch.inference_mode():
        cache = plain.model(torch.tensor([token_ids]), use_cache=True).past_key_values
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]).transpose(
        2, 3
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_walk_takes_over_only_what_a_fresh_run_would_make(seed: int) -> None:
    """Few beginnings, little memory: pages are offered, taken over, overwritten and offered again."""
    chance = random.Random(seed)
    plain, driver = make_tiny_host("llama"), drive("full", num_blocks=18, max_batch_tokens=7)
    stems = [prompt_of(14, number) for number in range(3)]
    cached = []
    for move in range(150):
        action, request_id = chance.random(), f"request-{move}"
        if action < 0.35:
            stem = chance.choice(stems)[: chance.randint(4, 14)]
            prompt = [*stem, *prompt_of(chance.randint(0, 5), move)]
            pages = PromptPages(page_hashes(prompt, [], PAGE), len(prompt) - 1)
            if driver.admit(request_id, prompt, chance.randint(1, 5), pages):
                cached.append(driver.cached[request_id])
                found, expected = kept(driver, request_id, cached[-1]), computed(plain, prompt)
                torch.testing.assert_close(found, expected[:, :, : cached[-1]], atol=1e-5, rtol=0)
        elif action < 0.42 and driver.left:
            driver.remove(chance.choice(list(driver.left)))
        else:
            driver.step()
    driver.finish()

    assert sum(number > 0 for number in cached) > 5
    assert cached.count(0) > 5
    for request_id, logits in driver.logits.items():
        if logits:
            driver.assert_plain(plain, request_id)


def test_pages_of_use_are_overwritten_last() -> None:
    """Four requests of three pages fill the memory; two of their pages can be taken over."""
    driver = drive("full", num_blocks=12)
    prompts = {name: prompt_of(3 * PAGE, number) for number, name in enumerate("abcd")}

    def run(name: str) -> int:
        pages = PromptPages(page_hashes(prompts[name], [], PAGE), 3 * PAGE - 1)
        assert driver.admit(name, prompts[name], 1, pages)
        driver.finish()
        return driver.cached[name]

    assert [run(name) for name in "abc"] == [0, 0, 0]
    assert run("a") == 2 * PAGE
    assert run("d") == 0  # where b was
    assert [run(name) for name in "cab"] == [2 * PAGE, 2 * PAGE, 0]


def consecutive(blocks: Sequence[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(blocks))


def largest_piece(free: set[int]) -> int:
    lengths = dict.fromkeys(sorted(free), 1)
    for block in sorted(free):
        lengths[block] = lengths.get(block - 1, 0) + 1
    return max(lengths.values(), default=0)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_never_lost_or_doubled_and_lie_in_one_piece_where_they_can(seed: int) -> None:
    chance = random.Random(seed)
    driver = drive("full", num_blocks=24)
    driver.admit("all", [0], 24 * PAGE)
    every_block = set(driver.blocks("all"))
    driver.remove("all")
    assert len(every_block) == 24
    in_pieces = 0
    running: list[str] = []
    for move in range(300):
        free = every_block - {block for request_id in running for block in driver.blocks(request_id)}
        if chance.random() < 0.55:
            size, request_id = chance.randint(1, 7), f"request-{move}"
            admitted = driver.admit(request_id, [0], size * PAGE)
            assert admitted == (size <= len(free))
            if admitted:
                blocks = driver.blocks(request_id)
                assert len(blocks) == len(set(blocks)) == size
                assert set(blocks) <= free
                assert consecutive(blocks) or largest_piece(free) < size
                in_pieces += not consecutive(blocks)
                running.append(request_id)
        elif running:
            driver.remove(running.pop(chance.randrange(len(running))))
    for request_id in running:
        driver.remove(request_id)

    assert in_pieces > 0, "the memory was never fragmented"
    assert driver.batch.cache.used_bytes == 0
    assert driver.admit("all again", [0], 24 * PAGE)
    assert set(driver.blocks("all again")) == every_block


def test_the_smallest_piece_that_fits_is_taken() -> None:
    driver = drive("full", num_blocks=12)
    for request_id, size in {"a": 3, "b": 1, "c": 2, "d": 1, "e": 5}.items():
        driver.admit(request_id, [0], size * PAGE)
    small = driver.blocks("c")
    for request_id in "ace":
        driver.remove(request_id)

    driver.admit("new", [0], 2 * PAGE)

    assert driver.blocks("new") == small


def test_blocks_of_an_odd_size_give_the_same_logits() -> None:
    """The allocator hands memory out in multiples of 128 bytes, here two blocks at a time."""
    plain = make_tiny_host("llama", num_key_value_heads=1, num_hidden_layers=3)
    host = make_tiny_host("llama", num_key_value_heads=1, num_hidden_layers=3)
    driver = Driver(host, num_blocks=9, page=5, max_batch_tokens=8)
    room = driver.batch.cache.num_tokens
    assert driver.admit("before", prompt_of(7, 0), 4)
    assert driver.admit("beside", prompt_of(12, 1), 4)
    driver.finish()
    assert driver.admit("whole", prompt_of(room - 2, 2), 3)

    driver.finish()

    for request_id in ("before", "beside", "whole"):
        driver.assert_plain(plain, request_id)
    assert driver.batch.cache.used_bytes == 0


def test_a_request_in_several_pieces_gets_the_same_logits() -> None:
    driver, plain = drive("full", num_blocks=10), make_tiny_host("llama")
    for number in range(5):
        driver.admit(f"filler-{number}", prompt_of(6, number), 3)
    for number in (0, 2, 4):
        driver.remove(f"filler-{number}")
    assert driver.admit("scattered", prompt_of(17, 9), 6)
    assert not consecutive(driver.blocks("scattered"))

    driver.finish()

    driver.assert_plain(plain, "scattered")
    driver.assert_plain(plain, "filler-1")


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.kv_cache_gib is 4096, but cpu has only \d"):
        ContinuousBatch(
            make_tiny_host(),
            lambda logits, _: (logits.argmax(dim=-1), logits.max(dim=-1).values),
            kv_cache_gib=4096,
            max_batch_tokens=16,
            max_running_requests=4,
            page_size=PAGE,
        )


def test_masks_that_are_never_made_take_no_memory() -> None:
    """For each token of the memory times each of a batch, as transformers reckons, it would be 38 GB."""
    driver = drive("full", num_blocks=20_000, max_batch_tokens=65_536)

    assert driver.batch.cache.num_tokens == 20_000 * PAGE
