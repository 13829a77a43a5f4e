"""What the Chat page keeps: answers saved while written, tabs kept apart, failures said, files in and out."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from chatglm_backend.core import GenerationParams, KeptAs, Message
from chatglm_backend.errors import ConversationGone, HistoryError, HistoryRepaired, HistoryReplaced, QueueFull
from chatglm_backend.sentences import load_texts
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.records import Conversation, Opened, Place, StoredMessage
from chatglm_backend.store.transfer import from_json
from chatglm_backend.testing import SCENES, Script, ScriptedModel, scripted_service
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Interrupted, Turns
from chatglm_backend.ui.history import Command, History, Moved
from chatglm_backend.ui.history_list import conversation_list, read_command
from chatglm_backend.ui.history_routes import history_router
from chatglm_backend.ui.visitor import VisitorLayer, VisitorSigner
from tests.unit.page_views import shown

_QUESTION: Turns = (Message("user", "What is AI?"),)


def _history(folder: Path) -> History:
    return History(Settings(data=str(folder)))


class Site:
    """The Chat page over a scripted model and a history."""

    def __init__(self, history: History, grace: float = 30.0, **scenes: Script) -> None:
        self.history = history
        self.model = ScriptedModel({**SCENES, **scenes})
        service = scripted_service(self.model)
        answers = PageAnswers(service, Settings(disconnect_grace=grace))
        self.presenter = ChatPresenter(service, answers, history, load_texts("en"))

    def answer(
        self, place: Place | None, turns: Turns, text: str, keeper: str | None = "ann",
        action: str = "send", index: int = 0, tokens: int = 512,
    ) -> AsyncGenerator[ChatView, None]:  # fmt: skip
        """What the page shows after sending, or after another ``action``."""
        asked = self.presenter.asked(action, turns, index, text)
        form = ChatForm(lambda: GenerationParams(max_new_tokens=tokens))
        return self.presenter.answer(Caller("ann", "tab", keeper), place, turns, asked, form)

    def read(self) -> StoredMessage:
        """The last message of the newest conversation, as another process reads it."""
        store = _history(self.history.folder).store
        return store.read("ann", store.list("ann")[0].id).messages[-1]


def _ask(history: History, place: Place | None, turns: Turns, text: str, keeper: str | None = "ann") -> list[ChatView]:
    return shown(lambda: Site(history).answer(place, turns, text, keeper))


def _contents(history: History, visitor: str = "ann") -> list[list[str]]:
    return [[m.content for m in history.store.read(visitor, one.id).messages] for one in history.store.list(visitor)]


def test_an_answer_is_kept_with_its_figures(tmp_path: Path) -> None:
    """Question, answer, end and timing are in the store, and the last view knows the place."""
    history = _history(tmp_path)
    last = _ask(history, None, (), "What is AI?")[-1]
    assert last.place is not None
    assert last.changed
    found = history.store.read("ann", last.place.conversation_id)
    assert [(m.content, m.state) for m in found.messages] == [
        ("What is AI?", "complete"),
        ("AI is the study of machines that learn.", "complete"),
    ]
    assert found.messages[1].timing is not None
    assert found.messages[1].timing["completion_tokens"] == 9


def test_rounds_go_to_one_conversation(tmp_path: Path) -> None:
    """The second question follows the first, under its title."""
    history = _history(tmp_path)
    first = _ask(history, None, (), "What is AI?")[-1]
    _ask(history, first.place, first.turns, "and then")
    assert [len(one) for one in _contents(history)] == [4]
    assert [one.title for one in history.store.list("ann")] == ["What is AI?"]


def test_a_tab_that_fell_behind_is_told_and_keeps_what_was_typed(tmp_path: Path) -> None:
    """Nothing is sent or kept; the page stays as it is, with a button that shows what the other tab wrote."""
    site = Site(_history(tmp_path))
    start = shown(lambda: site.answer(None, (), "What is AI?"))[-1]
    _ask(site.history, start.place, start.turns, "tab one")
    views = shown(lambda: site.answer(start.place, start.turns, "tab two"))
    assert [(view.turns, view.taken, view.running) for view in views] == [(start.turns, "", False)]
    assert "went on in another tab" in views[0].status
    assert start.place is not None
    assert f'data-history="reload" data-id="{start.place.conversation_id}"' in views[0].status
    assert len(site.model.requests) == 1
    assert [one[2] for one in _contents(site.history)] == ["tab one"]
    moved = site.history.carry_out("ann", Command("reload", start.place.conversation_id), start.place)
    assert moved is not None
    assert (len(moved.turns), moved.put) == (4, "")


def test_what_is_refused_or_empty_leaves_versions_and_box(tmp_path: Path) -> None:
    """What was edited goes into the box, what is asked for again does not; the rows stay as they are."""
    site = Site(_history(tmp_path))
    start = shown(lambda: site.answer(None, (), "What is AI?"))[-1]
    again = shown(lambda: site.answer(start.place, start.turns, "", action="regenerate", index=1))[-1]
    assert again.versions == ((1, 1), (2, 2))
    empty = shown(lambda: site.answer(again.place, again.turns, " "))
    assert [(view.turns, view.versions, view.taken) for view in empty] == [(again.turns, None, "")]
    for action, text, put in (
        ("edit_answer", "Well, ", "Well, "),
        ("edit", "What?", "What?"),
        ("edit_answer", again.turns[1].content, ""),
        ("regenerate", "", ""),
    ):
        behind = shown(
            lambda action=action, text=text: site.answer(  # type: ignore[misc]
                start.place, again.turns, text, action=action, index=1
            )
        )
        assert [(view.turns, view.versions, view.put) for view in behind] == [(again.turns, None, put)]


def test_an_answer_that_had_nothing_more_to_say_is_whole(tmp_path: Path) -> None:
    """One that was cut, and ends at once when it goes on, is not cut any more, also in the store."""
    site = Site(_history(tmp_path), once=Script(("half", " more")))
    cut = shown(lambda: site.answer(None, (), "once", tokens=1))[-1]
    assert site.read().state == "interrupted"
    site.model.scenes = {"once": Script(()), "half": Script(())}
    last = shown(lambda: site.answer(cut.place, cut.turns, "", action="go_on"))[-1]
    assert (type(last.turns[-1]), last.turns[-1].content) == (Message, "half")
    assert (site.read().content, site.read().state) == ("half", "complete")


def test_a_refused_message_is_not_kept_and_goes_back_into_the_box(tmp_path: Path) -> None:
    """The conversation is as it was, in the store and on the page, and there is nothing to continue."""
    site = Site(_history(tmp_path), forbidden=Script((), refuse=QueueFull(waiting=9)))
    new = shown(lambda: site.answer(None, (), "forbidden"))[-1]
    assert (new.turns, new.place, new.put, new.resumable) == ((), None, "forbidden", False)
    assert new.taken  # also where only this view is seen, it stands in the box once
    assert "alert" in new.status
    assert site.history.store.list("ann") == ()
    start = shown(lambda: site.answer(None, (), "What is AI?"))[-1]
    last = shown(lambda: site.answer(start.place, start.turns, "forbidden"))[-1]
    assert (last.turns, last.put, last.resumable) == (start.turns, "forbidden", False)
    again = shown(lambda: site.answer(last.place, last.turns, "and then"))[-1]
    assert len(again.turns) == 4
    assert _contents(site.history) == [[turn.content for turn in again.turns]]


WORDS = Script(tuple(f"w{n} " for n in range(400)), delay_s=0.02)


def test_words_are_saved_before_they_are_shown(tmp_path: Path) -> None:
    """In the middle of an answer another reader finds all that the page shows, marked as interrupted."""
    site = Site(_history(tmp_path), words=WORDS)

    async def follow() -> None:
        shown = 0
        async for view in site.answer(None, (), "words"):
            found = await asyncio.to_thread(site.read)
            assert found.content.startswith(view.turns[-1].content)
            shown += len(view.turns) == 2
            if shown:
                assert found.state == "interrupted"
            if shown == 3:
                break

    asyncio.run(follow())


def test_an_answer_is_kept_when_its_page_has_gone(tmp_path: Path) -> None:
    """What is written until the grace is over, marked as interrupted; a short one whole."""
    for grace, words, state in ((0.5, 400, "interrupted"), (30.0, 40, "complete")):
        script = Script(WORDS.pieces[:words], delay_s=0.02)
        site = Site(_history(tmp_path), grace, words=script)

        async def leave(site: Site = site) -> tuple[int, int]:
            async with aclosing(site.answer(None, (), "words")) as views:
                async for view in views:
                    if len(view.turns) == 2:
                        break
            shown = len(view.turns[-1].content)
            await asyncio.to_thread(site.model.answers[0].ended.wait, 20)
            await asyncio.sleep(0.6)
            return shown, site.model.answers[0].made

        shown, made = asyncio.run(leave())
        found = site.read()
        assert len(found.content) > shown
        assert (found.content, found.state) == ("".join(script.pieces[:made]), state)


def test_a_stopped_answer_is_interrupted(tmp_path: Path) -> None:
    """Its text is kept and it does not count as whole."""
    site = Site(_history(tmp_path), words=WORDS)

    def stop(view: ChatView) -> None:
        if len(view.turns) == 2:
            site.presenter.answers.stop("ann", view.id)

    last = shown(lambda: site.answer(None, (), "words"), stop)[-1]
    found = site.read()
    assert (found.content, found.state) == (last.turns[-1].content, "interrupted")


def test_without_a_place_to_write_the_page_goes_on(tmp_path: Path) -> None:
    """The answer comes, and the visitor is told in one sentence what to do."""
    (tmp_path / "file").write_text("")
    history = _history(tmp_path / "file")
    kept = _ask(history, None, (), "What is AI?")
    assert kept[-1].turns[-1].content == "AI is the study of machines that learn."
    assert next(str(k.problem) for k in kept if k.problem is not None).count("--data") == 1
    listing = conversation_list(load_texts("zh"), history, history.visitor({}), "", None)
    assert "--data" in listing
    assert "./history/import?language=zh" in listing


def test_switched_off_nothing_is_written(tmp_path: Path) -> None:
    """No file, no key, no cookie that stays; the page says that nothing is kept."""
    history = History(Settings(data=str(tmp_path / "none"), history=False))
    assert not history.signer().lasting
    visitor = history.visitor({history.signer().cookie_name: history.signer().issue()})
    assert visitor is None
    assert _ask(history, None, (), "What is AI?", visitor)[-1].turns[-1].role == "assistant"
    assert "not kept" in conversation_list(load_texts("en"), history, visitor, "", None)
    assert not (tmp_path / "none").exists()


def test_undo_is_kept_and_an_emptied_conversation_goes(tmp_path: Path) -> None:
    """Cut to one round, then to nothing: then it is not listed any more."""
    history = _history(tmp_path)
    first = _ask(history, None, (), "What is AI?")[-1]
    second = _ask(history, first.place, first.turns, "two")[-1]
    assert second.place is not None
    moved = history.cut("ann", second.place, 2)
    assert moved.place is not None
    assert moved.turns == first.turns
    assert [len(one) for one in _contents(history)] == [2]
    assert history.cut("ann", moved.place, 0) == Moved()
    assert history.store.list("ann") == ()


def test_commands_of_the_list(tmp_path: Path) -> None:
    """Opening shows the turns; renaming shows nothing new; deleting the open one empties the page.

    What else is kept of a conversation goes with it.
    """
    forgotten: list[KeptAs] = []
    history = History(Settings(data=str(tmp_path)), forgotten.append)
    last = _ask(history, None, (), "What is AI?")[-1]
    assert last.place is not None
    name = last.place.conversation_id
    moved = history.carry_out("ann", Command("open", name), None)
    assert moved is not None
    assert moved.turns == last.turns
    assert history.carry_out("ann", Command("rename", name, "Other"), last.place) is None
    assert [one.title for one in history.store.list("ann")] == ["Other"]
    with pytest.raises(ConversationGone):
        history.carry_out("bob", Command("open", name), None)
    assert history.carry_out("ann", Command("delete", name), last.place) == Moved()
    assert forgotten == [KeptAs("ann", name)]
    second = _ask(history, None, (), "What is AI?")[-1].place
    assert second is not None
    assert history.carry_out("ann", Command("delete_all"), None) == Moved()
    assert forgotten[1:] == [KeptAs("ann", second.conversation_id), KeptAs("ann", "")]


def test_only_whole_commands_are_read() -> None:
    """What the page's script did not write is nothing."""
    assert read_command('{"action": "open", "id": "x"}') == Command("open", "x", "")
    for source in ("", "[]", "5", "{}", '{"id": 1}', "[" * 50_000):
        assert read_command(source) == Command()


def test_titles_are_text_in_the_list(tmp_path: Path) -> None:
    """HTML in a title is shown, not run, in text and in attributes."""
    history = _history(tmp_path)
    history.store.begin("ann", None, (Message("user", '"><img src=x onerror=alert(1)>'),))
    listing = conversation_list(load_texts("en"), history, "ann", "", None)
    assert "<img" not in listing
    assert "&quot;&gt;&lt;img" in listing


def test_the_list_says_where_and_who_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder, host and doubt are named in both languages; visitors from elsewhere do not read whose home it is in."""
    history = _history(tmp_path)
    for language, words in (("en", "can be wrong"), ("zh", "可能有误")):
        listing = conversation_list(load_texts(language), history, "ann", "", None)  # type: ignore[arg-type]
        assert str(tmp_path) in listing
        assert words in listing
    monkeypatch.setattr(Path, "home", lambda: tmp_path.parent)
    listing = conversation_list(load_texts("en"), history, "ann", "", None)
    assert f"Kept in {Path('~') / tmp_path.name} on" in listing
    assert str(tmp_path) not in listing


def test_a_cookie_of_another_key_or_hand_is_nobody() -> None:
    """Only what this key signed names a visitor."""
    ours, other = VisitorSigner(b"a" * 32), VisitorSigner(b"b" * 32)
    value = ours.issue()
    name = value.split(".")[0]
    assert ours.read({ours.cookie_name: value}) == name
    assert ours.cookie_name != other.cookie_name
    forged = (other.issue(), name, f"{name}.", f"{'0' * 32}.{value.split('.')[1]}", f"{name}.é", "", f"../{value}")
    assert [ours.read({ours.cookie_name: one}) for one in forged] == [None] * len(forged)


def _client(history: History) -> TestClient:
    app = FastAPI()
    app.add_route("/", lambda _: HTMLResponse("<p>page</p>"))
    app.include_router(history_router(history, {"en": load_texts("en"), "zh": load_texts("zh")}))
    app.add_middleware(VisitorLayer, signer=history.signer)
    client = TestClient(app)
    client.headers["accept"] = "text/html"
    return client


def _visitor(history: History, client: TestClient) -> str:
    client.get("/")
    found = history.visitor(dict(client.cookies))
    assert found is not None
    return found


def test_the_cookie_is_set_once_and_not_for_scripts(tmp_path: Path) -> None:
    """The first page sets it, HttpOnly and Lax; the next keeps it."""
    client = _client(_history(tmp_path))
    line = client.get("/").headers["set-cookie"]
    assert "HttpOnly" in line
    assert "SameSite=Lax" in line
    assert "set-cookie" not in client.get("/").headers


def test_files_go_out_and_in_for_their_owner_only(tmp_path: Path) -> None:
    """One's own come as a download and go back in; another visitor and a nobody get nothing."""
    history = _history(tmp_path)
    ann, bob, nobody = _client(history), _client(history), _client(history)
    opened = history.store.begin(_visitor(history, ann), None, (Message("user", "a/b 问题"),))
    history.store.save_answer(opened, "answer", "complete")
    address = f"/en/history/export?id={opened.place.conversation_id}"
    _visitor(history, bob)
    assert bob.get(address).status_code == 404
    assert nobody.get(address).status_code == 404
    reply = ann.get(address)
    assert "a%20b%20%E9%97%AE%E9%A2%98.json" in reply.headers["content-disposition"]
    assert "## 模型\n\nanswer" in ann.get(f"/zh{address[3:]}&form=md").text
    kind = {"content-type": "application/json"}
    taken = bob.post("/history/import", content=reply.content, headers=kind)
    assert (taken.status_code, taken.json()) == (200, {"message": "Imported: 1"})
    assert _contents(history, _visitor(history, bob)) == [["a/b 问题", "answer"]]
    whole = ann.get("/history/export")
    assert (json.loads(whole.text)["conversations"][0]["title"], whole.headers["x-said"]) == ("a/b 问题", "")


def test_more_conversations_than_are_listed_are_said_and_exported(tmp_path: Path) -> None:
    """The list ends with a word on the others; the file has all, and comes back whole. What failed is a sentence."""
    history = _history(tmp_path)
    client = _client(history)
    visitor = _visitor(history, client)
    turn = StoredMessage("user", "x", "complete", None, 1.0)
    talks = [Conversation("", f"talk {number}", 1.0, 1.0, 0, (turn,)) for number in range(1001)]
    history.store.add_all(visitor, talks[:200])
    assert "Only the newest" not in conversation_list(load_texts("en"), history, visitor, "", None)
    history.store.add_all(visitor, talks[200:])
    listing = conversation_list(load_texts("en"), history, visitor, "", None)
    assert (listing.count('class="cg-row"'), "Only the newest 200 are listed." in listing) == (200, True)
    whole = client.get("/history/export").content
    assert len(json.loads(whole)["conversations"]) == len(from_json(whole)) == 1001
    gone = client.get("/zh/history/export?id=gone")
    assert (gone.status_code, "对话" in gone.json()["message"]) == (404, True)


def test_an_export_says_how_many_damaged_conversations_it_leaves_out(tmp_path: Path) -> None:
    """In the page's language; the others are in it."""
    history = _history(tmp_path)
    client = _client(history)
    visitor = _visitor(history, client)
    for text in ("one", "two", "three"):
        history.store.begin(visitor, None, (Message("user", text),))
    with sqlite3.connect(history.store.path) as db:
        db.executescript(
            "DROP TRIGGER check_changed; UPDATE messages SET content = 'x' WHERE content IN ('one', 'three')"
        )
    reply = client.get("/zh/history/export?form=md")
    assert "## 我\n\ntwo" in reply.text
    assert "对话，共 2 个" in unquote(reply.headers["x-said"])
    assert client.get("/history/export?form=md&language=zh").text == reply.text  # as the page asks, wherever it lies


def test_a_bad_or_foreign_import_is_refused(tmp_path: Path) -> None:
    """A wrong file is explained in the visitor's language; a form from elsewhere is not read."""
    history = _history(tmp_path)
    client = _client(history)
    visitor = _visitor(history, client)
    kind = {"content-type": "application/json"}
    refused = client.post("/zh/history/import", content=b"{}", headers=kind)
    assert refused.status_code == 400
    assert refused.json()["message"] == "文件里没有本程序的对话。请选择从这里导出的 JSON 文件。"
    ours = {"format": "chatglm-conversations", "version": 1}
    for change, words in (({"version": 9}, "其他版本"), ({"conversations": 5}, "已损坏（conversations")):
        refused = client.post("/zh/history/import", content=json.dumps({**ours, **change}).encode(), headers=kind)
        assert (refused.status_code, words in refused.json()["message"]) == (400, True)
    assert client.post("/history/import", content=b"x" * 8_000_001, headers=kind).status_code == 413
    assert client.post("/history/import", content=b"{}", headers={"content-type": "text/plain"}).status_code == 403
    assert history.store.list(visitor) == ()


def test_a_conversation_that_was_cut_short_comes_back_marked(tmp_path: Path) -> None:
    """After a reload or a restart an unfinished answer is known as one; a whole one is not marked."""
    history = _history(tmp_path)
    opened = history.store.begin("ann", None, _QUESTION)
    history.store.save_answer(opened, "half", "interrupted")
    moved = _history(tmp_path).last_open("ann")
    assert moved is not None
    assert moved.turns == (*_QUESTION, Interrupted("assistant", "half"))
    history.store.save_answer(opened, "whole", "complete")
    moved = history.last_open("ann")
    assert moved is not None
    assert moved.turns == (*_QUESTION, Message("assistant", "whole"))


@pytest.mark.parametrize("met", [HistoryRepaired(), HistoryReplaced(path="history.sqlite3")])
def test_what_met_damage_that_was_put_right_is_done_once_more(tmp_path: Path, met: HistoryError) -> None:
    """A question goes on in its own conversation, not in a copy; a refused one is taken back."""

    class Damaged(ConversationStore):
        times = 0

        def begin(self, *args: Any, **options: Any) -> Opened:
            self._repair()
            return super().begin(*args, **options)

        def withdraw(self, *args: Any) -> Any:
            self._repair()
            return super().withdraw(*args)

        def _repair(self) -> None:
            self.times += 1
            if self.times % 2:
                raise met

    history = _history(tmp_path)
    history.store = Damaged(tmp_path / "history.sqlite3")
    first, problem = history.begin("ann", None, (Message("user", "one"),))
    assert first is not None
    history.store.save_answer(first, "done", "complete")
    turns = (Message("user", "one"), Message("assistant", "done"), Message("user", "two"))
    second, problem = history.begin("ann", first.place, turns)
    assert second is not None
    assert problem is None
    assert len(history.store.list("ann")) == 1
    assert [turn.content for turn in history.withdraw("ann", second).turns] == ["one", "done"]
