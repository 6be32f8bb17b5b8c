"""Where documents come from: one `[[data.sources]]` table of a run's configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from steerd.errors import ConfigError

Mode = Literal["fast", "block"]
OnBadLine = Literal["error", "skip"]

HUB_PREFIX = "hf:"
SUFFIXES = (".jsonl", ".jsonl.zst", ".txt", ".parquet")


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


def check_source(source: SourceConfig, where: str) -> None:
    """Raise ConfigError for values that no source can have; `where` ("data.sources[0].") begins its path."""
    if not 0 < source.share < math.inf:
        bound = "finite" if source.share == math.inf else "above 0"
        raise ConfigError(f"{where}share: must be {bound}, found {source.share}")
    if source.is_on_hub and not source.path.removeprefix(HUB_PREFIX).strip("/"):
        raise ConfigError(f"{where}path: must name a data set, as hf:OWNER/NAME does, found {source.path!r}")
    if not source.is_on_hub and not source.path.endswith(SUFFIXES):
        ends = ", ".join(SUFFIXES)
        raise ConfigError(
            f"{where}path: must end in {ends} or begin with {HUB_PREFIX}, found {source.path!r}"
        )
    for name, unset in (("hub_config", ""), ("hub_split", "train"), ("hub_revision", "")):
        value = getattr(source, name)
        if not source.is_on_hub and value != unset:
            raise ConfigError(f"{where}{name}: only beside a path hf:OWNER/NAME, found {value!r}")
    if source.text_column and (source.messages_column or source.mode == "fast"):
        reason = "a messages_column" if source.messages_column else "mode 'fast', which needs conversations"
        raise ConfigError(f"{where}text_column: must be empty beside {reason}, found {source.text_column!r}")
