"""The texts it runs on, as token ids of any host."""

from __future__ import annotations

from itertools import chain, islice, repeat

from steerd.host.host_model import HostModel
from steerd.host.text import encode_continuation, encode_prompt

FIRST = (
    "The lighthouse keeper wrote in his book every evening: the wind, the height of the sea, and the names "
    "of the ships that had passed. In the winter of 1887 he wrote 'no ships' for forty days. Then a small "
    "boat came out of the fog, with two people in it who spoke a language that he had never heard."
)
SECOND = (
    "To make the bread, mix 500 g of flour with 350 ml of water, a spoon of salt and some yeast. Wait until "
    "it has doubled in size; fold it four times, and bake it at 230 degrees for three quarters of an hour. "
    "def double(x): return 2 * x  # Why does the oven have to be so hot? Because the crust needs steam."
)


def token_ids(host: HostModel, text: str, length: int) -> list[int]:
    """The first `length` ids of a text as the host reads it, going round where it is shorter than that."""
    first, more = encode_prompt(host.tokenizer, text), encode_continuation(host.tokenizer, " " + text)
    return list(islice(chain(first, chain.from_iterable(repeat(more))), length))


def with_special_token(host: HostModel, ids: list[int], position: int) -> list[int]:
    """The ids with a special token at the position, where the host has one that ends texts."""
    special = sorted(host.eos_token_ids & host.special_token_ids)
    return ids[:position] + special[:1] + ids[position + 1 :] if special else ids
