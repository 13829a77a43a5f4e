"""Documents on the Chat page: read for their visitor, given to the model, shown, kept once, gone with their talk."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chatglm_backend.core import CancelToken, GenerationParams, Message
from chatglm_backend.documents.passages import Passage, Sources
from chatglm_backend.documents.reading import Document, DocumentReader
from chatglm_backend.errors import DocumentRefused
from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.records import Attached, Place, Sourced
from chatglm_backend.store.schema import MIGRATIONS, migrate
from chatglm_backend.store.transfer import from_json, to_json, to_markdown
from chatglm_backend.testing import ScriptedModel, scripted_service
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.attached import document_cards, fit_with_documents, waiting_cards, where, without_cards
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Turns, shown
from chatglm_backend.ui.document_routes import document_router
from chatglm_backend.ui.documents import DocumentDesk
from chatglm_backend.ui.history import Command, History
from tests.unit.page_views import shown as all_views
from tests.unit.refusals import refused

LEASE = Document("lease.pdf", ("The rent is due on the first day.", "AI is not allowed."), numbered=True, tokens=12)
LONG = Document("long.pdf", (*("x" * 90 for _ in range(30)), "The fox sleeps.", "The bear eats."), numbered=True)
_NAMES = {"user": "You", "assistant": "Model", "document": "Document", "sources": "Sources"}


def _length(turns: Turns) -> int:
    return sum(len(turn.content) for turn in turns)


class Page:
    """The Chat page of one visitor over a scripted model."""

    def __init__(self, folder: Path) -> None:
        self.history = History(Settings(data=str(folder)))
        self.model = ScriptedModel()
        service = scripted_service(self.model)
        self.presenter = ChatPresenter(service, PageAnswers(service), self.history, load_texts("en"))
        self.turns: Turns = ()
        self.place: Place | None = None

    def ask(self, action: str, text: str = "", *documents: Document, index: int = 0) -> ChatView:
        """The page at the end of an answer."""
        asked = self.presenter.asked(action, self.turns, index, text, documents)
        form = ChatForm(lambda: GenerationParams(max_new_tokens=64))
        caller = Caller("ann", "tab", "ann")
        last = all_views(lambda: self.presenter.answer(caller, self.place, self.turns, asked, form))[-1]
        self.turns, self.place = last.turns, last.place
        return last

    def rows(self, what: str) -> int:
        """How many rows the history has."""
        with sqlite3.connect(self.history.store.path) as db:
            return int(db.execute(what).fetchone()[0])


def test_a_document_goes_with_its_question_and_stays_for_the_next(tmp_path: Path) -> None:
    """The second question's prompt begins with all that was read for the first; the text is in the store once."""
    page = Page(tmp_path)
    first = page.ask("send", "What is AI?", LEASE)
    page.ask("send", "And the rent?")
    one, two = (request.messages for request in page.model.requests)
    head = "[lease.pdf, p. 1]\nThe rent is due on the first day.\n\n[lease.pdf, p. 2]\nAI is not allowed.\n\n"
    assert one == (Message("user", f"{head}What is AI?"),)
    assert two[:1] == one
    assert isinstance(first.turns[-1], Sourced)
    assert first.turns[-1].sources == Sources((Passage(0, "lease.pdf", 2, "AI is not allowed.", 0), first_page()), 0)
    assert page.rows("SELECT COUNT(*) FROM documents") == 1
    assert page.rows("SELECT COUNT(*) FROM messages WHERE content LIKE '%rent is due%'") == 0


def first_page() -> Passage:
    """The lease's."""
    return Passage(0, "lease.pdf", 1, LEASE.pages[0])


def test_reopened_it_looks_the_same_and_goes_on(tmp_path: Path) -> None:
    """After a restart the cards, the sources and what the model is given are as before."""
    page = Page(tmp_path)
    before = page.ask("send", "What is AI?", LEASE)
    again = Page(tmp_path)
    moved = again.history.last_open("ann")
    assert moved is not None
    assert moved.turns == before.turns
    again.turns, again.place = moved.turns, moved.place
    again.ask("send", "And the rent?")
    assert again.model.requests[-1].messages[0] == page.model.requests[-1].messages[0]


def test_retry_and_edit_keep_it_and_undo_gives_it_back(tmp_path: Path) -> None:
    """What is edited is the question without the cards above it."""
    page = Page(tmp_path)
    page.ask("send", "What is AI?", LEASE)
    page.ask("regenerate", index=1)
    look = shown(page.turns, "", lambda turn, _: document_cards(load_texts("en"), turn))[0]["content"][0]["text"]
    assert look.startswith('<div class="cg-docs">')
    assert without_cards(look) == "What is AI?"
    page.ask("edit", look.replace("AI", "IT"))
    contents = [request.messages[0].content for request in page.model.requests]
    assert contents[0] == contents[1] == contents[2].replace("IT", "AI")
    moved = page.presenter.undo(page.turns, 1)
    assert (moved.turns, moved.put, moved.attached) == ((), "What is IT?", (LEASE,))


def test_passages_are_chosen_anew_for_each_question(tmp_path: Path) -> None:
    """Where the documents do not fit; the answer names what it was given, with pages."""
    page = Page(tmp_path)
    fox = page.ask("send", "Where does the fox sleep?", LONG)
    bear = page.ask("send", "What does the bear eat?")
    pages = []
    for view in (fox, bear):
        answer = view.turns[-1]
        assert isinstance(answer, Sourced)
        assert answer.sources is not None
        assert answer.sources.count == 32
        pages.append(answer.sources.passages[0].page)
    assert pages == [31, 32]
    assert _length(page.model.requests[-1].messages) <= 2048
    moved = page.history.last_open("ann")
    assert moved is not None
    assert moved.turns == bear.turns


def test_a_document_stays_when_its_round_no_longer_fits() -> None:
    """It goes to the first round that is left; where it does not fit whole, rounds take half of the room at most."""
    turns: Turns = (
        Attached("user", "one", documents=(LEASE,)),
        Message("assistant", "x" * 60),
        Message("user", "rent?"),
    )
    fitted = fit_with_documents(turns, _length, limit=160, reserve=10)
    assert (fitted.dropped, len(fitted.messages)) == (1, 1)
    assert fitted.messages[0].content.endswith("AI is not allowed.\n\nrent?")
    turns = (Attached("user", "one", documents=(LONG,)), Message("assistant", "x" * 300), Message("user", "the fox?"))
    fitted = fit_with_documents(turns, _length, limit=500, reserve=10)
    assert (fitted.dropped, len(fitted.messages)) == (1, 1)
    assert "The fox sleeps." in fitted.messages[0].content
    assert fitted.used <= 490


def test_a_document_is_not_counted_for_every_round() -> None:
    """However many rounds there are to leave out: that would take long."""
    rounds = (Message("user", "x" * 20), Message("assistant", "y" * 20)) * 50
    turns: Turns = (
        Attached("user", "one", documents=(LEASE,)),
        Message("assistant", "1"),
        *rounds,
        Message("user", "?"),
    )
    counted = []

    def count(some: Turns) -> int:
        counted.append("rent is due" in some[0].content)
        return _length(some)

    fitted = fit_with_documents(turns, count, limit=200, reserve=10)
    assert (fitted.used, fitted.dropped) == (172, 49)
    assert sum(counted) == 2


def test_it_is_deleted_with_its_question_and_its_conversation(tmp_path: Path) -> None:
    """Undo, deletion, and deletion of all leave no word of it."""
    count = "SELECT COUNT(*) FROM documents"
    for end in ("cut", "delete", "delete_all"):
        page = Page(tmp_path / end)
        page.ask("send", "What is AI?")
        page.ask("send", "And the rent?", LEASE)
        assert page.rows(count) == 1
        assert page.place is not None
        if end == "cut":
            page.history.cut("ann", page.place, 2)
        else:
            page.history.carry_out("ann", Command(end, page.place.conversation_id), page.place)
        assert page.rows(count) == 0


def test_an_older_history_takes_documents(tmp_path: Path) -> None:
    """Its conversations go on with some."""
    path = tmp_path / "history.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, MIGRATIONS[:4])
    connection.execute("INSERT INTO conversations VALUES ('c1', 'ann', 'before', 1, 2, 0, '')")
    connection.execute(
        "INSERT INTO messages (conversation, position, role, content, state, created) "
        "VALUES ('c1', 0, 'user', 'hello', 'complete', 1)"
    )
    connection.close()
    store = ConversationStore(path)
    assert store.read("ann", "c1").messages[0].message == Message("user", "hello")
    turns = (Message("user", "hello"), Message("assistant", "hi"), Attached("user", "rent?", documents=(LEASE,)))
    store.begin("ann", Place("c1", 0), turns)
    assert store.read("ann", "c1").messages[-1].documents == (LEASE,)


def test_an_export_names_documents_and_sources_and_leaves_their_text_here(tmp_path: Path) -> None:
    """Taken in again, the card says so, and the conversation goes on without it."""
    page = Page(tmp_path)
    page.ask("send", "What is AI?", LEASE)
    assert page.place is not None
    found = page.history.store.read("ann", page.place.conversation_id)
    text = to_json((found,))
    first, second = json.loads(text)["conversations"][0]["messages"]
    assert first["documents"] == [{"name": "lease.pdf", "tokens": 12}]
    assert second["sources"] == ["lease.pdf, p. 2", "lease.pdf, p. 1"]
    assert "rent is due" not in text
    markdown = to_markdown((found,), _NAMES, partial(where, load_texts("zh")))
    assert "Document: lease.pdf\n" in markdown
    assert "Sources: lease.pdf，第 2 页; lease.pdf，第 1 页\n" in markdown
    (name,) = page.history.store.add_all("bob", from_json(text.encode()))
    turn = page.history.store.read("bob", name).messages[0].message
    assert turn == Attached("user", "What is AI?", documents=(Document("lease.pdf", (), tokens=12),))
    assert "named only" in document_cards(load_texts("en"), turn)[0]
    assert fit_with_documents((turn,), _length, 1000, 10).messages == (turn,)


def test_names_and_texts_of_documents_are_text() -> None:
    """HTML in them is shown, not run, on every card; tokens are said where they are known."""
    hostile = Document("<img src=x>$x^2$.pdf", ("<script>one\n\n$5 or \\(x\\)",))
    texts = load_texts("en")
    sources = Sourced("assistant", "yes", sources=Sources((Passage(0, hostile.name, 3, hostile.pages[0]),), 9))
    looks = [
        waiting_cards(texts, (hostile, LEASE)),
        *document_cards(texts, Attached("user", "?", documents=(hostile,))),
        *document_cards(texts, sources),
    ]
    assert not any("<img" in look or "<script" in look for look in looks)
    assert "12 tokens" in looks[0]
    assert ["too long" in waiting_cards(texts, (LEASE,), room) for room in (0, 11, 12)] == [False, True, False]
    assert not any("$" in look or "\\" in look for look in looks[1:])  # no formula where both are Markdown
    assert "24 characters" in looks[0]
    assert "1 of 9 passages" in looks[2]
    assert ".pdf, page 3</strong><br>&lt;script&gt;one<br>&#36;5 or &#92;(x&#92;)</p>" in looks[2]


class _Slow(DocumentReader):
    """Reads until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.stopped = False

    def read(self, name: str, data: bytes, cancel: CancelToken | None = None) -> Document:
        """See the reader."""
        assert cancel is not None
        if data == b"slow":
            self.stopped = cancel._event.wait(30)
            raise DocumentRefused(name=name, reason="stopped")
        return Document(name, (data.decode(),))


@pytest.fixture
def service() -> Iterator[Service]:
    """With a scripted model."""
    made = scripted_service(ScriptedModel())
    yield made
    made.close()


async def _here() -> bool:
    return False


async def _gone() -> bool:
    return True


def test_the_desk_holds_a_document_for_its_visitor_until_it_is_sent(service: Service) -> None:
    """With its tokens; nobody else gets it; reading ends when the card is taken away; only so many wait."""
    reader = _Slow()
    desk = DocumentDesk(service, Settings(), reader)

    async def scene() -> Document:
        with pytest.raises(DocumentRefused):
            await desk.read("ann", "slow.pdf", b"slow", _gone)
        found = await desk.read("ann", "a.txt", b"text", _here)
        for number in range(15):
            await desk.read("ann", f"{number}.txt", b"text", _here)
        with refused(DocumentRefused, "document.too_many", most=16):
            await desk.read("ann", "b.txt", b"text", _here)
        await desk.read("bob", "b.txt", b"text", _here)
        return found

    one = asyncio.run(scene())
    assert reader.stopped
    assert one.tokens == len("[a.txt]\ntext\n\n")
    assert desk.held("ann", [one.id, "other", one.id], "tab") == (one,)
    assert desk.held("bob", [one.id], "tab") == ()
    desk.keep_only("ann", (), (one,))
    assert desk.held("ann", [one.id], "tab") == ()


def test_what_was_never_sent_goes_with_its_page_or_after_an_hour(service: Service) -> None:
    """A reload asks for it in time; other tabs' documents stay."""
    now = 0.0
    desk = DocumentDesk(service, Settings(), _Slow(), clock=lambda: now)

    async def attach(name: str) -> str:
        return (await desk.read("ann", name, name.encode(), _here)).id

    ids = [asyncio.run(attach(name)) for name in ("a.txt", "b.txt", "c.txt")]

    def here(*tabs: str) -> list[str]:
        return [one.name for id_, tab in zip(ids, tabs, strict=True) for one in desk.held("ann", [id_], tab)]

    assert here("one", "one", "two") == ["a.txt", "b.txt", "c.txt"]
    desk.leave("one")
    now = 100.0
    assert desk.held("ann", ids[:1], "one anew")[0].name == "a.txt"
    now = 150.0
    assert here("one anew", "one", "two") == ["a.txt", "c.txt"]
    now = 150.0 + 3601
    assert here("one anew", "one", "two") == []


def test_a_process_that_reads_is_ended_with_its_card() -> None:
    """The real reader's process is killed, not waited for."""
    cancel = CancelToken()
    cancel.cancel()
    with refused(DocumentRefused, "document.slow"):
        DocumentReader(100_000, seconds=0.01).read("a.txt", b"text", cancel)


def test_a_file_is_taken_or_refused_in_the_pages_language(service: Service, tmp_path: Path) -> None:
    """One sentence that names it; another site's form is not read."""
    app, desk = FastAPI(), DocumentDesk(service, Settings(document_mb=1))
    history = History(Settings(data=str(tmp_path)))
    app.include_router(document_router(desk, history, {"en": load_texts("en"), "zh": load_texts("zh")}))
    client, kind = TestClient(app), {"content-type": "application/octet-stream"}
    taken = client.post("/chat/document?name=a.txt", content="雨".encode(), headers=kind)
    assert desk.held("page:testclient", [taken.json()["id"]], "tab")[0].pages == ("雨",)
    refusal = client.post("/zh/chat/document?name=a.pdf&language=zh", content=b"%PDF-1.7", headers=kind)
    assert (refusal.status_code, refusal.json()["message"]) == (400, "无法读取 a.pdf：文件已损坏。")
    large = client.post("/chat/document?name=a.txt", content=b"x" * (1 << 20 | 1), headers=kind)
    assert large.json()["message"] == "a.txt cannot be read: it is larger than 1 MB."
    assert client.post("/chat/document?name=a.txt", content=b"x").status_code == 403
