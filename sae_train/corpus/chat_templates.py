"""Conversations through the host's chat template, with what a template can do wrong told apart."""

from __future__ import annotations

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sae_train.corpus.documents import ChatDocument, CorpusError


def check_has_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise CorpusError when the host's tokenizer cannot format conversations at all."""
    if not tokenizer.chat_template:
        raise CorpusError(
            f"{where}: a conversation needs a chat template, and the host's tokenizer has none; "
            "train on texts in mode 'block', or on an instruct model"
        )


def render_chat(tokenizer: PreTrainedTokenizerBase, document: ChatDocument) -> str:
    """Return the conversation as the host's template writes it, without the start of a next turn.

    Raises CorpusError naming the document and its roles when the template refuses them or writes nothing.
    """
    turns = [{"role": message.role, "content": message.content} for message in document.messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    except (TemplateError, TypeError, ValueError) as error:  # a template is a program that may do anything
        reason = f"refused by the host's chat template: {error}"
        raise CorpusError(f"{document.where}: {reason}; {_roles(document)}") from error
    assert isinstance(text, str)
    if not text.strip():
        raise CorpusError(f"{document.where}: the host's chat template writes nothing; {_roles(document)}")
    return text


def _roles(document: ChatDocument) -> str:
    return f"the roles are {', '.join(repr(message.role) for message in document.messages[:8])}"
