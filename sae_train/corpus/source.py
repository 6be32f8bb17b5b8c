"""Where documents come from: one `[[data.sources]]` table of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["fast", "block"]
OnBadLine = Literal["error", "skip"]

HUB_PREFIX = "hf:"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One corpus file or hub data set, and how much of the run comes from it."""

    path: str
    """A .jsonl, .jsonl.zst, .txt or .parquet file relative to the current directory, or hf:OWNER/NAME."""
    mode: Mode
    """fast: each conversation alone through the chat template; block: documents joined and cut."""
    share: float = 1.0
    """Part of the tokens, relative to the other sources' shares."""
    licence: str = ""
    """Where the documents come from and under which licences; travels with the SAE in steerd.json."""
    on_bad_line: OnBadLine = "error"
    """What a line does that is no document or that the chat template refuses: stop the run, or count."""
    text_column: str = ""
    """Key or column of a text; with neither set: messages, conversations, conversation or text."""
    messages_column: str = ""
    """Key or column of a conversation: a list of {role, content} or of {from, value}."""
    source_column: str = "source"
    """Key or column that says where a document is from; absent, the file's or data set's own name counts."""
    hub_config: str = ""
    """The hub data set's configuration; empty: its default one."""
    hub_split: str = "train"
    """The hub data set's split."""
    hub_revision: str = ""
    """The hub data set's commit or tag; empty: the newest, so that a later run may see other documents."""

    @property
    def is_on_hub(self) -> bool:
        """Whether the documents are streamed from the Hugging Face hub."""
        return self.path.startswith(HUB_PREFIX)
