"""Visits to the Chat and Batch pages by somebody who comes back, also after the server was killed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.soaking.endpoint import take_answer
from benchmarks.soaking.line import Leave, to_the_end
from benchmarks.soaking.page import Functions, PageClient, Tab, take_status
from benchmarks.soaking.questions import DOCUMENT, Question, Record

_CHAT, _STATUS = 1, 3  # among what Send sets
_BATCH_STATUS = 3  # among what Start sets
_FINISHED = ("stop", "length")
_PIECES = (0, 1, 3, 8)


@dataclass
class Diary:
    """What a visitor knows for longer than a server lives.

    ``answers`` are those that the page said were whole, with their questions, as often as it said so. ``place`` is the
    model, the conversation and how many of its questions are answered. ``batch`` is asked already, ``lines`` came back.
    """

    cookies: dict[str, str] = field(default_factory=dict)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    place: tuple[str, int, int] | None = None
    batch: tuple[Question, ...] = ()
    lines: str = ""

    @property
    def visitor(self) -> str:
        """The name that the store knows."""
        return next(
            (value.partition(".")[0] for name, value in self.cookies.items() if name.startswith("chatglm_visitor")), ""
        )


class ChatClient(PageClient):
    """A browser with a visitor's cookie. ``talks`` are conversations, each question with what was said before it."""

    visits = ("talk", "talk", "talk_closes", "talk_reloads", "batch")

    def __init__(
        self, number: int, port: int, token: str, functions: Functions, chance: random.Random, diary: Diary
    ) -> None:
        self.diary = diary
        self.talks: list[list[Question]] = []
        super().__init__(number, port, token, functions, chance)
        diary.cookies = self._arrive(diary.cookies)

    def talk(self, _: Question) -> list[Record]:
        """Ask the next question of a conversation, the last one or a new one."""
        return self._talk("chat", to_the_end)

    def talk_closes(self, _: Question) -> list[Record]:
        """Close the tab in the middle."""
        return self._talk("chat closes", self.enough(_PIECES))

    def talk_reloads(self, _: Question) -> list[Record]:
        """Reload in the middle: the new page shows the conversation, and its answer to the end."""
        records = self._talk("chat reloads", lambda found: bool(found.text))
        if records[0].end == "left":
            again = Record(self.number, "chat after a reload", records[0].question)
            self._open(self.functions.restore, again).close()
            # It may have been whole already: then it is shown without a word.
            records.append(replace(again, end="left") if again.end == "lost" and again.text else again)
        return records

    def batch(self, _: Question) -> list[Record]:
        """Have a file of questions answered, or go on with the one that was interrupted."""
        diary = self.diary
        if not diary.batch or diary.batch[0].model != self.talks[0][0].model:  # another model goes on with none
            asked = [talk[0] for talk in self.talks if not talk[0].document]
            lines = [
                {"custom_id": str(n), "method": "POST", "url": one.path, "body": one.body(stream=False)}
                for n, one in enumerate(asked)
            ]
            self._send("/en/batch/input?name=in.jsonl", "\n".join(map(json.dumps, lines)).encode())
            diary.batch, diary.lines = tuple(asked), ""
        else:
            self._look()
        tab, progress = Tab(self), Record(self.number, "batch", diary.batch[0])
        tab.press(self.functions.named["cg-batch-start", "click"], [""])
        tab.watch(progress, lambda _: self._look(), take=lambda *_: None)
        tab.close()
        if len(diary.lines.splitlines()) < len(diary.batch):
            return [replace(progress, text="")]
        records = []
        for line in map(json.loads, diary.lines.splitlines()):
            record = Record(self.number, "batch", diary.batch[int(line["custom_id"])], seen=[json.dumps(line)])
            take_answer(record, line["response"]["body"])
            records.append(record)
        diary.batch = ()
        return records

    def _talk(self, kind: str, leave: Leave) -> list[Record]:
        diary, model = self.diary, self.talks[0][0].model.partition(":")[0]
        known, number, at = diary.place or ("", 0, 0)
        if known != model or at == len(self.talks[number]):
            number, at = self.chance.randrange(len(self.talks)), 0
        question = self.talks[number][at]
        diary.place = None
        tab = self._open(
            self.functions.restore if at else self.functions.named["cg-chat-clear", "click"],
            Record(self.number, kind, question),
        )
        if question.document:
            name = json.loads(self._send(f"/en/chat/document?name={DOCUMENT}", question.document.encode()))["id"]
            tab.press(self.functions.named["cg-chat-wanted", "change"], [json.dumps({"ids": [name]}), None])
            tab.watch(Record(self.number, kind, question), to_the_end, take=lambda *_: None)
        record = Record(self.number, kind, question)
        tab.press(self.functions.named["cg-chat-send", "click"], self._fields(question))
        tab.watch(record, leave, take=_take)
        tab.close(tear=self.chance.random() < 0.5)
        if record.end in _FINISHED:
            diary.answers[question.text, record.text] += 1
            diary.place = (model, number, at + 1)
        return [record]

    def _open(self, function: int, record: Record) -> Tab:
        """A tab, as it is after its first call."""
        tab = Tab(self)
        tab.press(function, self._fields(record.question))
        tab.watch(record, to_the_end, take=_take)
        return tab

    def _fields(self, question: Question) -> list[Any]:
        given = {
            "cg-chat-box": question.text, "cg-chat-adapter": question.adapter, "cg-chat-seed": question.seed,
            "cg-chat-max-new-tokens": question.max_tokens, "cg-chat-temperature": question.temperature,
        }  # fmt: skip
        return [given.get(name or "", value) for name, value in self.functions.talk]

    def _send(self, path: str, data: bytes) -> bytes:
        with self.line() as line:
            reply = line.ask(path, data, **{"content-type": "application/octet-stream"})
            raw = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{path} answered {reply.status}: {raw[:200]!r}")
            return raw

    def _look(self) -> bool:
        """Fetch what there is of the batch. Raises RuntimeError where something is gone that was there."""
        with self.line() as line:
            reply = line.ask("/en/batch/output")
            raw = reply.read().decode()
        whole = raw[: raw.rfind("\n") + 1] if reply.status == 200 else ""
        if not whole.startswith(self.diary.lines):
            raise RuntimeError("answers of a batch are gone")
        self.diary.lines = whole
        return False


def _take(record: Record, shown: Sequence[Any]) -> None:
    """The last answer as it was written, without what the page puts beside it."""
    turns = shown[_CHAT]
    if isinstance(turns, list) and turns and turns[-1]["role"] == "assistant":
        parts = [part["text"] for part in turns[-1]["content"] if not part["text"].startswith("<details")]
        record.text = "\n".join(parts).partition('\n\n<span class="cg-cut">')[0].replace("&#0000060;", "<")
    take_status(record, shown[_STATUS])
