"""The input of a request, prompt, chat or token ids, -> the host's token ids."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.errors import InvalidRequest
from steerd.host.chat_roles import content_spans
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat, encode_continuation, encode_prompt
from steerd.pb.v1 import feature_service_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.violations import Violations
from steerd.steering.scope import RoleSpan

InputMessage = pb.GenerateRequest | pb.ScoreRequest
TextMessage = InputMessage | feature_service_pb2.Text


@dataclass(frozen=True, slots=True)
class PromptParser:
    """Parses one request's input, recording every broken rule; `place` is what goes before its fields."""

    host: HostModel
    limits: LimitsConfig
    violations: Violations
    place: str = ""

    def prompt_ids(self, message: TextMessage) -> tuple[int, ...] | None:
        """The ids of the prompt, at least one; None when a violation was recorded."""
        try:
            ids = self._ids(message)
        except InvalidRequest as error:  # from the chat template
            for violation in error.violations:
                self.violations.add(f"{self.place}{violation.field}", violation.description)
            return None
        return tuple(ids) if ids and self._fits_context(len(ids), message) else None

    def roles(
        self,
        message: TextMessage,
        prompt_ids: tuple[int, ...] | None,
        field: str,
    ) -> tuple[RoleSpan, ...]:
        """Where the messages of each role of a chat stand in the prompt; `field` is what asks for roles."""
        if prompt_ids is None:
            return ()
        spans = content_spans(self.host.tokenizer, _turns(message.chat), prompt_ids)
        if spans is None:
            problem = "cannot be told: the host's chat template does not show where each message stands"
            self.violations.add(field, problem)
            return ()
        return tuple(
            RoleSpan(turn.role, span.start, span.stop)
            for turn, span in zip(message.chat.messages, spans, strict=True)
        )

    def _ids(self, message: TextMessage) -> list[int] | None:
        match message.WhichOneof("input"):
            case "prompt":
                return self._from_prompt(message.prompt)
            case "chat":
                return self._from_chat(message.chat)
            case "token_ids":
                return self.from_token_ids(f"{self.place}token_ids.ids", list(message.token_ids.ids))
            case _:
                self.violations.add(f"{self.place}input", "one of prompt, chat and token_ids is required")
                return None

    def _from_prompt(self, prompt: str) -> list[int] | None:
        field = f"{self.place}prompt"
        rules = [
            self.violations.must_not_be_empty(field, prompt),
            self.violations.must_be_text(field, prompt),
            self._fits_characters(field, len(prompt)),
        ]
        return encode_prompt(self.host.tokenizer, prompt) if all(rules) else None

    def _from_chat(self, chat: pb.Chat) -> list[int] | None:
        messages = f"{self.place}chat.messages"
        rules = [self.violations.must_not_be_empty(messages, chat.messages)]
        for position, turn in enumerate(chat.messages):
            field = f"{messages}[{position}]"
            rules.append(self.violations.must_not_be_empty(f"{field}.role", turn.role))
            rules.append(self.violations.must_be_text(f"{field}.role", turn.role))
            rules.append(self.violations.must_be_text(f"{field}.content", turn.content))
        characters = sum(len(turn.role) + len(turn.content) for turn in chat.messages)
        rules.append(self._fits_characters(messages, characters))
        return encode_chat(self.host.tokenizer, _turns(chat)) if all(rules) else None

    def continuation_ids(self, message: pb.Continuation, field: str) -> tuple[int, ...] | None:
        """The ids of what follows a text, at least one; None when a violation was recorded."""
        match message.WhichOneof("content"):
            case "text":
                rules = [
                    self.violations.must_not_be_empty(f"{field}.text", message.text),
                    self.violations.must_be_text(f"{field}.text", message.text),
                ]
                ids = encode_continuation(self.host.tokenizer, message.text) if all(rules) else None
            case "token_ids":
                ids = self.from_token_ids(f"{field}.token_ids.ids", list(message.token_ids.ids))
            case _:
                self.violations.add(f"{field}.content", "one of text and token_ids is required")
                ids = None
        return tuple(ids) if ids else None

    def from_token_ids(self, field: str, ids: list[int]) -> list[int] | None:
        """The ids, all known to the host and at least one; None when a violation was recorded."""
        bound = f"below the vocabulary size, {self.host.vocab_size}"
        rules = [self.violations.must_not_be_empty(field, ids)]
        for position, token_id in enumerate(ids):
            if token_id >= self.host.vocab_size:
                rules.append(self.violations.must(False, f"{field}[{position}]", bound, token_id))
                break  # one is enough to see what is wrong; a wrong vocabulary would fill the answer
        return ids if all(rules) else None

    def _fits_characters(self, field: str, characters: int) -> bool:
        limit = self.limits.max_prompt_characters
        return self.violations.must_be_at_most(field, characters, limit, "characters")

    def _fits_context(self, prompt_tokens: int, message: TextMessage) -> bool:
        """At least one new token must fit behind the prompt."""
        field = f"{self.place}{message.WhichOneof('input') or 'input'}"
        limit = self.host.max_context - 1
        return self.violations.must_be_at_most(
            field, prompt_tokens, limit, "tokens, one less than the context"
        )


def _turns(chat: pb.Chat) -> list[ChatMessage]:
    return [ChatMessage(turn.role, turn.content) for turn in chat.messages]
