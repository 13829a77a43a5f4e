"""A document on the Chat page with a small INT4 model: what is read of it for the second question."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatglm_backend.core import GenerationParams
from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Sourced
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.documents import DocumentDesk
from chatglm_backend.ui.history import History
from tests import tiny

pytestmark = pytest.mark.model
ANN = Caller("ann", "tab", "ann")


async def _here() -> bool:
    return False


class Site:
    """The program from its start to its end, as one visitor uses it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.service = Service(settings)
        self.service.load(str(folder))
        self.service.wait_ready(100)
        history = History(settings)
        self.presenter = ChatPresenter(self.service, PageAnswers(self.service, settings), history, load_texts("en"))
        self.desk, moved = DocumentDesk(self.service, settings), history.last_open("ann")
        self.turns, self.place = (moved.turns, moved.place) if moved else ((), None)

    def ask(self, question: str, attached: str = "") -> tuple[int, int]:
        """How many tokens of the prompt were read, and how many were known."""
        before = self._tokens()
        asyncio.run(self._ask(question, attached))
        prompt, cached = (now - then for now, then in zip(self._tokens(), before, strict=True))
        return prompt - cached, cached

    async def _ask(self, question: str, attached: str) -> None:
        given = (await self.desk.read("ann", "a.txt", attached.encode(), _here),) if attached else ()
        asked = self.presenter.asked("send", self.turns, 0, question, given)
        form = ChatForm(lambda: GenerationParams(max_new_tokens=4))
        async for view in self.presenter.answer(ANN, self.place, self.turns, asked, form):
            last: ChatView = view
        self.turns, self.place = last.turns, last.place

    def _tokens(self) -> tuple[int, int]:
        metrics = self.service.metrics()
        assert metrics is not None
        return metrics.tokens["prompt_tokens"], metrics.tokens["cached_tokens"]


def test_the_second_question_reads_no_word_of_the_document_again(tmp_path: Path) -> None:
    """Nor does the first one after a restart of the program."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3")
    settings = Settings(threads=1, data=str(tmp_path / "data"))
    site = Site(folder, settings)
    text = "".join(chr(97 + i * i % 26) for i in range(300))
    first, known = site.ask("hi", text)
    assert (first > 200, known) == (True, 0)
    assert site.turns[0].content == "hi"
    assert isinstance(site.turns[-1], Sourced)
    again, known = site.ask("how")
    assert again < 40
    assert known > 200
    site.service.close()
    site = Site(folder, settings)
    again, known = site.ask("why")
    site.service.close()
    assert again < 100  # what is kept on the disk are whole blocks
    assert known > 200
