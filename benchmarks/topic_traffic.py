"""Chats about one topic at a time, from a few clients that never stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.client_messages import ChatTurn, GenerateCall

MUSIC = (
    "My sister plays the violin in an orchestra. Which pieces should I hear before her concert on Sunday?",
    "Write two sentences about the songs of the Beatles, their albums and why so many bands covered them.",
    "I am looking for a jazz album with a piano and a singer. Which artists and songs do you suggest?",
)
WEATHER = (
    "Will it rain tomorrow in Paris, with wind and a temperature below ten degrees, or will it be sunny?",
    "Describe the weather of a winter day: snow, cold wind, a cloudy sky and the temperature in degrees.",
    "What is the weather forecast for the weekend? I hope for warm and sunny days without rain and wind.",
)
PAUSE_SECONDS = 0.2


class TopicTraffic:
    """Set `topic` at any time; the next chats are about it. Calls that fail are made anew."""

    def __init__(self, address: str, topic: tuple[str, ...], *, max_new_tokens: int) -> None:
        self.topic = topic
        self._address = address
        self._max_new_tokens = max_new_tokens
        self._stopped = threading.Event()

    @contextmanager
    def flowing(self, clients: int) -> Iterator[None]:
        """Chat from so many threads inside the block."""
        self._stopped.clear()
        threads = [threading.Thread(target=self._chat, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _chat(self) -> None:
        with Client(self._address, timeout_seconds=300) as client:
            for turn in count():
                if self._stopped.is_set():
                    return
                question = ChatTurn("user", self.topic[turn % len(self.topic)])
                call = GenerateCall(chat=(question,), max_new_tokens=self._max_new_tokens)
                try:
                    for _ in client.stream(call):
                        if self._stopped.is_set():
                            return  # which closes the connection, and so cancels the call
                except RemoteError:
                    self._stopped.wait(PAUSE_SECONDS)
