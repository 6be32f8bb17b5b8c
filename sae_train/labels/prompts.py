"""What a judge is asked, and how its answers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from sae_train.labels.judge import Question, Task
from sae_train.labels.label_contexts import LabelContext
from sae_train.labels.marked_text import active_places, marked_text, plain_text
from steerd.host.text import ChatMessage

LONGEST_LABEL = 200  # characters

_DETECTION = """\
You check descriptions of text patterns. You are given a description and numbered texts cut from longer \
ones. For each text decide whether the described pattern occurs anywhere in it."""
_FUZZING = """\
You check descriptions of text patterns. You are given a description and numbered texts cut from longer \
ones, in which some parts are marked <<like this>>. For each text decide whether the description is right \
for all the marked parts, read in their surroundings. All, some or none of the texts may be marked right."""
_INSTRUCTIONS: dict[Task, str] = {"detection": _DETECTION, "fuzzing": _FUZZING}
_LIST = """\
Answer with nothing but a JSON list that has one number for each text in order: 1 for yes, 0 for no. For \
example: [0, 1, 1]"""
_ONE = "Answer with one word: Yes or No."

_WRITE = """\
You describe what makes a detector in a language model respond. You are given texts cut from longer ones; \
the parts to which it responds are marked <<like this>>, with the strength of its strongest response from \
1 to 10 in front of each text. Some texts to which it does not respond may follow. Find what the marked \
parts, in their surroundings, have in common and the other texts lack. Be as specific as the texts allow, \
and as general as they demand. Do not speak of the marks, the detector or the texts themselves.
Answer with one line that begins with 'Description: ' and goes on with at most fifteen words."""
_RUBRIC = """\
You rate how clear a pattern the responses of a detector in a language model show. You are given the texts\
 to which it responds most, each with the strength of its response; the parts to which it responds are \
marked <<like this>>. Give points for their consistency:
5: one clear pattern, which every text shows
4: one clear pattern, which all but one or two texts show
3: a pattern can be seen, but several texts do not fit it
2: a common theme at most, without structure
1: no pattern to be seen
Answer with one line that begins with 'Pattern: ' and names it in at most fifteen words, and a second line\
 that begins with 'Score: ' and holds the points alone."""


def list_question(question: Question) -> list[ChatMessage]:
    """Ask about all texts of a question at once."""
    texts = [f"Text {number}: {_quoted(text)}" for number, text in enumerate(question.texts, start=1)]
    return [
        ChatMessage("system", f"{_INSTRUCTIONS[question.task]}\n{_LIST}"),
        ChatMessage("user", "\n".join([f"Description: {question.label}", "", *texts])),
    ]


def yes_or_no_question(task: Task, label: str, text: str) -> list[ChatMessage]:
    """Ask about one text."""
    return [
        ChatMessage("system", f"{_INSTRUCTIONS[task]}\n{_ONE}"),
        ChatMessage("user", f"Description: {label}\n\nText: {_quoted(text)}"),
    ]


def read_list(answer: str, length: int) -> list[bool] | None:
    """Return the first JSON list of `length` noughts and ones in an answer; None when there is none."""
    for found in re.findall(r"\[[^\[\]]*\]", answer):
        try:
            values = json.loads(found)
        except ValueError:
            continue
        if len(values) == length and all(value in (0, 1) for value in values):
            return [bool(value) for value in values]
    return None


def label_question(contexts: Sequence[LabelContext]) -> list[ChatMessage]:
    """Ask for a label from contexts, the active ones first."""
    highest = max(context.peak for context in contexts)
    lines = [_with_strength(context, highest) for context in contexts if context.is_active]
    others = [f"- {_quoted(plain_text(context))}" for context in contexts if not context.is_active]
    if others:
        lines += ["", "It does not respond to these:", *others]
    return [ChatMessage("system", _WRITE), ChatMessage("user", "\n".join(lines))]


def read_label(answer: str) -> str | None:
    """Return the description in an answer, on one line; None when there is none."""
    found = re.search(r"description:\s*(\S.*)", answer, re.IGNORECASE)
    if found is None:
        return None
    text = " ".join("".join(c if c.isprintable() else " " for c in found[1]).split()).strip("*\"' ")
    return text[:LONGEST_LABEL].rstrip(". ") or None


def rubric_question(contexts: Sequence[LabelContext]) -> list[ChatMessage]:
    """Ask for points for how clear a pattern contexts show."""
    highest = max(context.peak for context in contexts)
    lines = [_with_strength(context, highest) for context in contexts]
    return [ChatMessage("system", _RUBRIC), ChatMessage("user", "\n".join(lines))]


def read_points(answer: str) -> int | None:
    """Return the points, 1 to 5, in an answer; None when there are none."""
    found = re.findall(r"score:\W*([1-5])\b", answer, re.IGNORECASE)
    return int(found[-1]) if found else None


def _with_strength(context: LabelContext, highest: float) -> str:
    strength = max(1, round(10 * context.peak / highest)) if highest else 0
    return f"{strength}: {_quoted(marked_text(context.tokens, active_places(context)))}"


def _quoted(text: str) -> str:
    """On one line, so that texts cannot be taken for instructions or for each other."""
    return json.dumps(text, ensure_ascii=False)
