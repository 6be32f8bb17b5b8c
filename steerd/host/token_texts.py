"""Token ids as text for people, also where a character is cut into several tokens."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder prints for bytes that are no whole character

_MAX_BYTES_PER_CHARACTER = 4
_ANCHOR = "a"


class TokenTexts:
    """Turns ids into text, each as it reads inside a text: with the space that it brings along.

    Some tokenizers drop that space at the start of a text, so an id is decoded behind another one, whose text
    is then cut off.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"][-1:]
        self._prefix = self._decode(self._anchor)
        self._texts: dict[int, str] = {}

    def one(self, token_id: int) -> str:
        """Return one token as text; bytes that are no whole character appear as U+FFFD."""
        if token_id not in self._texts:
            self._texts[token_id] = self._behind_anchor([token_id])
        return self._texts[token_id]

    def run(self, token_ids: Sequence[int]) -> list[str]:
        """Return the texts of consecutive tokens: a character cut into several belongs to its last token.

        The others of that character have an empty text; joined, the texts are the text of the run.
        """
        texts: list[str] = []
        pending: list[int] = []
        for token_id in token_ids:
            text = self.one(token_id)
            if pending or UNFINISHED in text:
                pending.append(token_id)
                text = self._behind_anchor(pending)
                if text.endswith(UNFINISHED) and len(pending) < _MAX_BYTES_PER_CHARACTER:
                    text = ""
                else:
                    pending = []
            texts.append(text)
        if pending:
            texts[-1] = self._behind_anchor(pending)
        return texts

    def _behind_anchor(self, token_ids: Sequence[int]) -> str:
        text = self._decode([*self._anchor, *token_ids])
        return text.removeprefix(self._prefix) if text.startswith(self._prefix) else self._decode(token_ids)

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
