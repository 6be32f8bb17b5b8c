"""What EvaluateSteering has answered and reads when its client gives no texts."""

from __future__ import annotations

from steerd.host.host_model import HostModel
from steerd.pb.v1.feature_service_pb2 import Text
from steerd.pb.v1.generation_service_pb2 import Chat, ChatMessage

NEUTRAL = "From my experience,"
"""What output scores are taken after, as in arXiv 2505.20063."""

_QUESTIONS = (
    "What did you do this morning?",
    "Write the beginning of a short story.",
    "What should I cook tonight?",
    "Describe a street that you know well.",
    "How do people become good friends?",
    "Tell me something about your work.",
    "What is a good way to learn something new?",
    "Write a few lines to a neighbour.",
)
_BEGINNINGS = (
    "This morning I went",
    "Once upon a time there was",
    "For dinner tonight we will have",
    "The street where I grew up was",
    "Good friends are people who",
    "At work today we talked about",
    "The best way to learn something new is",
    "Dear neighbour, I wanted to tell you",
)
_STATEMENTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water freezes at zero degrees Celsius and boils at one hundred.",
    "A week has seven days, and a year has twelve months.",
    "The sun rises in the east and sets in the west.",
    "Two plus two is four, and three times three is nine.",
    "Dogs bark, cats meow, and cows give milk.",
)


def default_prompts(host: HostModel) -> tuple[Text, ...]:
    """Neutral questions, or beginnings of texts for a host that knows no chats."""
    if not host.has_chat_template:
        return tuple(Text(prompt=text) for text in _BEGINNINGS)
    return tuple(Text(chat=Chat(messages=[ChatMessage(role="user", content=text)])) for text in _QUESTIONS)


def default_controls() -> tuple[Text, ...]:
    """Statements whose words are known beforehand to who knows anything."""
    return tuple(Text(prompt=text) for text in _STATEMENTS)
