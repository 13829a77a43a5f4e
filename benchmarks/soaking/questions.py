"""What visitors ask, and what they know of one request when it is over.

Prompts of all sizes carry their visitor's mark, with settings that repeat an answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

MARKS = (
    "Zorbalin", "Quexley", "Vintarro", "Hobblund", "Jaskemi", "Wuffeld", "Yandrik", "Kezimbo", "Plimfor", "Drastan",
    "Uxmeria", "Gwelloc", "Fidzane", "Ompharic", "Brixtol", "Sennaro",
)  # fmt: skip
"""One for each visitor; none occurs in another or in the words below."""

_WORDS = (
    "What", "is", "the", "capital", "of", "France", "and", "how", "do", "I", "load", "a", "model", "on", "page",
    "today", "small", "sums", "like", "one", "two", "or", "word", "in", "Chinese", "tell", "me", "about", "INT4",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its settings. ``chat`` goes to the chat endpoint, all others may also be asked on the page."""

    mark: str
    text: str
    max_tokens: int
    temperature: float
    seed: int
    chat: bool = False

    @property
    def path(self) -> str:
        """The endpoint's route for it."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, *, stream: bool) -> dict[str, Any]:
        """As the endpoint takes it."""
        asked = {"messages": [{"role": "user", "content": self.text}]} if self.chat else {"prompt": self.text}
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {**settings, **asked, **usage, "stream": stream}

    def fields(self) -> dict[str, Any]:
        """As the page's Generate button takes it, by the names of its controls."""
        settings = {"cg-max-new-tokens": self.max_tokens, "cg-temperature": self.temperature, "cg-seed": self.seed}
        return {"cg-prompt": self.text, "cg-format": "raw", **settings}

    def shorter(self) -> Question:
        """With half of its words."""
        words = self.text.split()
        return replace(self, text=" ".join(words[: max(2, len(words) // 2)]))


@dataclass
class Record:
    """``end`` is how the client saw it end: ``stop``, ``length`` or ``cancelled`` as told by the server; an error's
    code when it told one; ``left`` when the client went away of its own accord; ``lost`` when a reply broke off.

    ``seen`` is everything that it received, as text. ``left_at`` is when it hung up in the middle of an answer, in
    seconds of the system's clock.
    """

    client: int
    kind: str
    question: Question
    request_id: str | None = None
    end: str = "lost"
    text: str = ""
    tokens: int | None = None
    left_at: float | None = None
    seen: list[str] = field(default_factory=list)


def questions_for(number: int, context: int, random_: random.Random) -> list[Question]:
    """One visitor's questions: from a few words to most of the context, greedy and sampled, short answers and long."""
    mark, found = MARKS[number], []
    for turn, (share, part) in enumerate(zip((0.0, 0.02, 0.1, 0.25, 0.5, 0.6), (4, 8, 32, 4, 8, 4), strict=True)):
        words = " ".join(random_.choice(_WORDS) for _ in range(int(context * share) + 3))
        text, temperature, seed = f"{mark}: {words} {mark}", (1.5, 0.0)[turn % 2], random_.randrange(2**31)
        found.append(Question(mark, text, context // part, temperature, seed, chat=turn in (2, 3)))
    return found


def too_long(question: Question, context: int) -> Question:
    """The same with more words than the model can read."""
    return replace(question, text=f"{question.mark} " * context)
