"""What visitors ask, and what they know of one request when it is over.

Prompts of all sizes carry their visitor's mark, with settings that repeat an answer.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
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


DOCUMENT = "notes.txt"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "many": {"enum": [1, 2, 3]},
        "yes": {"type": "boolean"},
    },
    "required": ["name", "many", "yes"],
}
TOOL = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its settings. ``chat`` goes to the chat endpoint, all others may also be asked on the page.

    ``model`` is the name of the model or of a fine-tune beside it, ``document`` what a file says that comes along,
    ``before`` the conversation's questions and answers so far.
    """

    mark: str
    text: str
    max_tokens: int
    temperature: float
    seed: int
    chat: bool = False
    model: str = ""
    schema: bool = False
    tools: bool = False
    document: str = ""
    before: tuple[tuple[str, str], ...] = ()

    @property
    def adapter(self) -> str:
        """The fine-tune as the page's choice has it."""
        return self.model.partition(":")[2] or "-"

    @property
    def path(self) -> str:
        """The endpoint's route for it."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, *, stream: bool) -> dict[str, Any]:
        """As the endpoint takes it."""
        content: object = self.text
        if self.document:
            coded = base64.b64encode(self.document.encode()).decode()
            file = {"filename": DOCUMENT, "file_data": coded}
            content = [{"type": "file", "file": file}, {"type": "text", "text": self.text}]
        turns = [(role, text) for pair in self.before for role, text in zip(("user", "assistant"), pair, strict=True)]
        messages = [{"role": role, "content": text} for role, text in (*turns, ("user", content))]
        asked: dict[str, Any] = {"messages": messages} if self.chat else {"prompt": self.text}
        if self.model:
            asked["model"] = self.model
        if self.schema:
            asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA}}
        if self.tools:
            asked |= {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {**settings, **asked, **usage, "stream": stream}

    def fields(self) -> dict[str, Any]:
        """As the page's Generate button takes it, by the names of its controls."""
        settings = {"cg-max-new-tokens": self.max_tokens, "cg-temperature": self.temperature, "cg-seed": self.seed}
        schema = {"cg-as-json": True, "cg-schema": json.dumps(SCHEMA)} if self.schema else {}
        return {"cg-prompt": self.text, "cg-format": "raw", "cg-adapter": self.adapter, **settings, **schema}

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


def mixed_questions(
    number: int, context: int, random_: random.Random, model: str, adapters: Sequence[str], *, tools: bool
) -> list[Question]:
    """The same of a named model, with fine-tunes, by a schema, with a document, and with tools where it knows them."""
    found = [replace(one, model=model, temperature=1.5) for one in questions_for(number, context, random_)]
    found[1] = replace(found[1], temperature=0.0)
    short, asked = found[5], replace(found[0], max_tokens=context // 8)
    found += [replace(short, model=f"{model}:{name}", seed=random_.randrange(2**31)) for name in adapters]
    found.append(replace(asked, schema=True, max_tokens=60))
    found.append(replace(asked, chat=True, document=_document(asked.mark, random_)))
    return [*found, replace(asked, chat=True, tools=True)] if tools else found


def conversation(
    number: int, random_: random.Random, model: str, tokens: int, *, document: bool = False
) -> list[Question]:
    """Questions of one conversation, in their order and without what was said before."""
    mark = MARKS[number]
    found = []
    for words in (200, 4):  # so many tokens are kept on disk; the bundled model reads two rounds
        words = 4 if document else words
        text = f"{mark}: {' '.join(random_.choice(_WORDS) for _ in range(words))}"
        told = _document(mark, random_) if document else ""
        heat = random_.choice((0.0, 1.5))
        found.append(
            Question(mark, text, tokens, heat, random_.randrange(2**31), chat=True, model=model, document=told)
        )
    return found[:1] if document else found


def _document(mark: str, random_: random.Random) -> str:
    return "\n".join(f"{mark} {' '.join(random_.choice(_WORDS) for _ in range(6))}." for _ in range(4))


def too_long(question: Question, context: int) -> Question:
    """The same with more words than the model can read."""
    return replace(question, text=f"{question.mark} " * context)
