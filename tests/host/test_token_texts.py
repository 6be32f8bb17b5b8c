from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts


def test_a_character_cut_into_tokens_belongs_to_its_last_one(tiny_host: HostModel) -> None:
    texts = TokenTexts(tiny_host.tokenizer)
    ids = list("aé水 🙂b".encode())

    run = texts.run(ids)

    assert run == ["a", "", "é", "", "", "水", " ", "", "", "", "🙂", "b"]
    assert texts.one(ids[1]) == "\ufffd"


def test_bytes_that_never_become_a_character_are_marked(tiny_host: HostModel) -> None:
    texts = TokenTexts(tiny_host.tokenizer)
    cut_off = list("x水".encode())[:-1]
    stray = [0xC3, *b"abcd"]

    assert "".join(texts.run(cut_off)) == "x\ufffd"
    assert "".join(texts.run(stray)) == "\ufffdabcd"
    assert len(texts.run(cut_off)) == len(cut_off)


def test_a_special_token_reads_as_it_is_written(tiny_host: HostModel) -> None:
    texts = TokenTexts(tiny_host.tokenizer)

    assert texts.run([257, ord("a")]) == ["<|im_start|>", "a"]


def test_the_space_that_a_word_brings_along_is_kept() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁cat": 1, "s": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))

    assert texts.one(1) == " cat"
    assert texts.run([1, 2]) == [" cat", "s"]
