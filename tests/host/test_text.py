from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steerd.errors import InvalidRequest
from steerd.host.text import (
    ChatMessage,
    IncrementalDecoder,
    StopMatcher,
    encode_chat,
    encode_prompt,
    token_texts,
)
from tests.tiny_hosts import byte_tokenizer

IM_START, IM_END = 257, 258
TEXTS = [
    "plain words, and  two spaces ",
    "naïve café — über",
    "日本語のテキスト",
    "👩‍👩‍👧 family 🎉",
    " leading space\n\ttab",
    "\ufffd a real replacement character \ufffd",
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def sentencepiece_like():
    """Word pieces that begin with their space, lost at a text's start, and bytes for what is rare."""
    words = ["▁", "▁a", "▁real", "▁plain", "▁words", ",", "é", "▁family", "▁two", "s", "p", "a", "c", "e"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + i for i, word in enumerate([*words, "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="module")
def merging():
    """A byte tokenizer with one token that ends inside a character: `P` and the first byte of an umlaut."""
    plain = byte_tokenizer().backend_tokenizer
    vocabulary = plain.get_vocab(with_added_tokens=False) | {"PÃ": 259}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("P", "Ã")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def pieces(tokenizer, ids, prompt_ids=()):
    decoder = IncrementalDecoder(tokenizer, prompt_ids)
    return [*(decoder.push(token_id) for token_id in ids), decoder.flush()]


def decode(tokenizer, ids):
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_prompt_is_tokenized_as_the_tokenizer_does_it(tokenizer):
    assert encode_prompt(tokenizer, "é<|im_end|>") == [0xC3, 0xA9, IM_END]


def test_a_chat_goes_through_the_template(tokenizer):
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", "hi")]

    ids = encode_chat(tokenizer, messages)
    without_prompt = encode_chat(tokenizer, messages, add_generation_prompt=False)

    text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.decode(ids) == text + "<|im_start|>assistant\n"
    assert tokenizer.decode(without_prompt) == text
    assert ids.count(IM_START) == 3


def test_a_host_without_chat_template_refuses_a_chat():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None

    with pytest.raises(InvalidRequest, match="chat: the host has no chat template"):
        encode_chat(tokenizer, [ChatMessage("user", "hi")])


def test_messages_that_the_template_refuses_are_the_requests_mistake():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(InvalidRequest, match=r"chat\.messages: .*roles must alternate"):
        encode_chat(tokenizer, [ChatMessage("user", "hi")])


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(tokenizer, text):
    assert "".join(pieces(tokenizer, text.encode())) == text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_with_byte_fallback(sentencepiece_like, text):
    ids = sentencepiece_like.encode(text, add_special_tokens=False)

    assert "".join(pieces(sentencepiece_like, ids)) == text


def test_a_character_appears_whole_with_its_last_byte(tokenizer):
    assert pieces(tokenizer, "aé🎉".encode()) == ["a", "", "é", "", "", "", "🎉", ""]


def test_the_whole_characters_of_a_token_are_not_held_back_with_its_cut_one(merging):
    assert pieces(merging, [259, 0xB6]) == ["P", "ö", ""]


def test_a_space_that_leads_the_generation_is_kept(sentencepiece_like):
    prompt_ids = sentencepiece_like.encode("plain words", add_special_tokens=False)
    family = sentencepiece_like.convert_tokens_to_ids("▁family")

    assert pieces(sentencepiece_like, [family, family], prompt_ids) == [" family", " family", ""]


def test_special_tokens_have_no_text(tokenizer):
    assert pieces(tokenizer, [ord("a"), IM_END, IM_START, ord("b"), IM_END]) == ["a", "", "", "b", "", ""]


def test_many_special_tokens_do_not_hurt_the_character_after_them(tokenizer):
    ids = [IM_END] * 9 + list("🎉".encode())

    assert pieces(tokenizer, ids) == [*[""] * 12, "🎉", ""]


def test_an_unfinished_character_ends_as_a_replacement_character(tokenizer):
    assert pieces(tokenizer, [ord("a"), 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]


def test_bytes_that_never_become_text_are_let_go(tokenizer):
    given = pieces(tokenizer, [0x80] * 12)

    assert "".join(given) == "\ufffd" * 12
    assert "".join(given[:8]) == "\ufffd" * 7


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_decode_as_they_do_at_once(tokenizer, seed):
    chooser = random.Random(seed)
    prompt_ids = list(b"prompt")
    ids = [chooser.choice([*b"ab", *"é日🎉".encode(), 0x80, 0xF0, IM_END]) for _ in range(60)]

    together = decode(tokenizer, prompt_ids + ids)

    assert "".join(pieces(tokenizer, ids, prompt_ids)) == together.removeprefix("prompt")


@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_tokens_join_to_the_text(tokenizer, sentencepiece_like, text):
    for each in (tokenizer, sentencepiece_like):
        ids = encode_prompt(each, text)
        texts = token_texts(each, ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == decode(each, ids)


def test_special_tokens_are_named_where_they_stand(tokenizer):
    ids = encode_prompt(tokenizer, "<|im_start|>é<|im_end|>x")

    assert token_texts(tokenizer, ids) == ["<|im_start|>", "", "é", "<|im_end|>", "x"]
    assert token_texts(tokenizer, []) == []


def test_a_text_that_ends_amid_a_character_says_so(tokenizer):
    ids = encode_prompt(tokenizer, "aé")

    assert token_texts(tokenizer, ids[:-1]) == ["a", "\ufffd"]


def first_stop(tokenizer, ids, stop):
    """After how many ids the matcher said stop; None if never."""
    matcher = StopMatcher(IncrementalDecoder(tokenizer, ()), stop)
    return next((i for i, token_id in enumerate(ids, start=1) if matcher(token_id)), None)


def test_a_stop_string_is_seen_when_its_last_token_comes(tokenizer):
    assert first_stop(tokenizer, b"one STOP two", ["never", "STOP"]) == len("one STOP")


@pytest.mark.parametrize("stop", [["日本"], ["zz", "本"], ["を日本語で"], ["e"]])
def test_a_stop_string_may_span_tokens_and_characters(tokenizer, stop):
    text = "Please を日本語で"
    expected = min(text.index(s) + len(s) for s in stop if s in text)

    assert first_stop(tokenizer, text.encode(), stop) == len(text[:expected].encode())


def test_a_stop_string_is_seen_before_a_cut_character(merging):
    assert first_stop(merging, [*b"STO", 259, 0xB6], ["STOP"]) == 4


def test_an_overlapping_false_start_does_not_hide_a_stop_string(tokenizer):
    assert first_stop(tokenizer, b"aababaabb", ["abaabb"]) == 9


def test_without_its_stop_strings_a_text_goes_on(tokenizer):
    assert first_stop(tokenizer, b"STO P stop", ["STOP"]) is None
    assert first_stop(tokenizer, b"anything", []) is None


@pytest.mark.real_host
@pytest.mark.parametrize("text", TEXTS)
def test_the_default_hosts_tokens_join_to_the_text(real_host, text):
    prompt_ids = encode_chat(real_host.tokenizer, [ChatMessage("user", "Write something.")])
    ids = encode_prompt(real_host.tokenizer, text)

    assert "".join(pieces(real_host.tokenizer, [*ids, 2], prompt_ids)) == text
