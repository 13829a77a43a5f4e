"""The file itself: migrated, set aside when damaged, bounded, private; exports that come back whole."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Sources
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import (
    ConversationDamaged,
    HistoryDamaged,
    HistoryReplaced,
    HistoryUnavailable,
    ImportRefused,
)
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.folder import data_folder, visitor_key
from chatglm_backend.store.records import Calling
from chatglm_backend.store.schema import MIGRATIONS, migrate
from chatglm_backend.store.transfer import from_json, to_json, to_markdown
from chatglm_backend.tokenizers.tools import ToolCall

_NAMES = {
    "user": "You",
    "assistant": "Model",
    "interrupted": "(interrupted)",
    "document": "Document",
    "sources": "Sources",
}


def _path(folder: Path) -> Path:
    return folder / "history.sqlite3"


def _filled(folder: Path) -> ConversationStore:
    store = ConversationStore(_path(folder))
    opened = store.begin("ann", None, (Message("user", "问题 with | and `code`"),))
    store.save_answer(opened, "答案\n\n```py\nx = 1\n```", "interrupted", {"ttft_s": 0.25})
    return store


def test_an_older_file_is_brought_up_to_date(tmp_path: Path) -> None:
    """Conversations of the first schema are found after the later migrations, each noted once."""
    connection = sqlite3.connect(_path(tmp_path), isolation_level=None)
    migrate(connection, MIGRATIONS[:1])
    connection.execute("INSERT INTO conversations VALUES ('c1', 'ann', 'before', 1, 2, 0)")
    connection.execute(
        "INSERT INTO messages (conversation, position, role, content, state, created) "
        "VALUES ('c1', 0, 'user', 'hello', 'complete', 1)"
    )
    connection.close()
    store = ConversationStore(_path(tmp_path))
    found = store.open("ann", "c1")
    assert ([m.content for m in found.messages], found.adapter) == (["hello"], "")
    store.close()
    connection = sqlite3.connect(_path(tmp_path))
    assert [row[0] for row in connection.execute("SELECT version FROM migrations")] == list(
        range(1, len(MIGRATIONS) + 1)
    )


def test_messages_in_a_row_become_a_branch(tmp_path: Path) -> None:
    """Conversations from before there were versions are whole, in order, under their old numbers, and go on."""
    connection = sqlite3.connect(_path(tmp_path), isolation_level=None)
    migrate(connection, MIGRATIONS[:5])
    for name in ("c1", "c2"):
        connection.execute("INSERT INTO conversations VALUES (?, 'ann', 'before', 1, 2, 7, '')", (name,))
    for position, role in enumerate(("user", "assistant", "user", "assistant")):
        for name in ("c1", "c2"):
            connection.execute(
                "INSERT INTO messages (conversation, position, role, content, state, timing, created, calls, sources) "
                """VALUES (?, ?, ?, ?, 'interrupted', '{"ttft_s": 0.5}', ?, '[["f", "{}"]]', '')""",
                (name, position, role, f"{name}.{position}", position),
            )
    document = Document("a.txt", ("text",)).id
    connection.execute("INSERT INTO documents VALUES ('c2', ?, 'a.txt', 0, 3, '[\"text\"]')", (document,))
    connection.execute("UPDATE messages SET documents = ? WHERE content = 'c2.0'", (json.dumps([document]),))
    before = connection.execute("SELECT id, content FROM messages ORDER BY id").fetchall()
    connection.close()
    store = ConversationStore(_path(tmp_path))
    found = store.read("ann", "c2")
    assert [(m.content, m.state, m.timing, m.created, m.calls) for m in found.messages] == [
        (f"c2.{i}", "interrupted", {"ttft_s": 0.5}, float(i), (ToolCall("f", "{}"),)) for i in range(4)
    ]
    assert (found.versions, found.revision) == (((1, 1),) * 4, 7)
    assert [one.pages for one in found.messages[0].documents] == [("text",)]
    opened = store.begin("ann", found.place, tuple(m.message for m in found.messages[:3]))
    assert opened.versions[-1] == (2, 2)
    assert [m.content for m in store.read("ann", "c1").messages] == [f"c1.{i}" for i in range(4)]
    store.close()
    connection = sqlite3.connect(_path(tmp_path))
    assert connection.execute("SELECT id, content FROM messages WHERE content <> '' ORDER BY id").fetchall() == before


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A broken migration is undone as a whole."""
    connection = sqlite3.connect(_path(tmp_path), isolation_level=None)
    with pytest.raises(sqlite3.Error):
        migrate(connection, (*MIGRATIONS, ("CREATE TABLE half (x)", "NOT SQL")))
    assert connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """A file of a later version is not touched; the sentence says why."""
    store = _filled(tmp_path)
    store.close()
    connection = sqlite3.connect(_path(tmp_path))
    connection.execute("INSERT INTO migrations VALUES (99, 0)")
    connection.commit()
    connection.close()
    with refused(HistoryUnavailable, "file.newer"):
        ConversationStore(_path(tmp_path)).list("ann")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"this is no database at all" * 300,
        lambda whole: whole[:4096] + os.urandom(len(whole) - 4096),
        lambda whole: whole.replace(b"TABLE conversations (\n", b"TABLE conversations \xff\xff"),
    ],
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A fresh file takes its place, the old one stays beside it, and one sentence says so once."""
    store = _filled(tmp_path)
    store.delete_all("nobody")  # empties the log, so that the damage below counts
    store.close()
    broken = damage(_path(tmp_path).read_bytes())
    _path(tmp_path).write_bytes(broken)
    store = ConversationStore(_path(tmp_path))
    assert store.list("ann") == ()
    aside = [p for p in tmp_path.iterdir() if ".damaged-" in p.name]
    assert [p.read_bytes() for p in aside] == [broken]
    notice = store.take_notice()
    assert notice is not None
    assert notice.fields == {"path": aside[0]}
    assert store.take_notice() is None
    store.begin("ann", None, (Message("user", "again"),))
    assert [s.title for s in store.list("ann")] == ["again"]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("答案".encode(), "答茉".encode()),
        ("答案".encode(), b"\xff" * 6),
        (b'"ttft_s"', b'"ttft_s['),
        (b"0.25", b"0.75"),
        (b"interrupted", b"interruptex"),
        (b"userq", b"uszrq"),
    ],
)
def test_a_changed_byte_costs_one_conversation(tmp_path: Path, text: bytes, changed: bytes) -> None:
    """Sqlite does not see it: the message's own digest does. The others are read, the damaged one can be deleted."""
    store = ConversationStore(_path(tmp_path))
    opened = store.begin("ann", None, (Message("user", "question"),))
    store.save_answer(opened, "答案", "interrupted", {"ttft_s": 0.25})
    other = store.begin("ann", None, (Message("user", "other"),)).place.conversation_id
    store.delete_all("nobody")  # empties the log, so that the damage below counts
    store.close()
    whole = _path(tmp_path).read_bytes()
    place = whole.index("答案".encode()) - 40  # in this row, not in the tables' own texts
    assert whole.find(text, place) > 0
    _path(tmp_path).write_bytes(whole[:place] + whole[place:].replace(text, changed, 1))
    store = ConversationStore(_path(tmp_path))
    assert len(store.list("ann")) == 2
    damaged = opened.place.conversation_id
    for read in (store.read, store.open):
        with pytest.raises(ConversationDamaged, match="Delete it"):
            read("ann", damaged)
    with pytest.raises(ConversationDamaged):
        store.begin("ann", opened.place, (Message("user", "question"), Message("assistant", "x"), Message("user", "y")))
    assert [one.content for one in store.open("ann", other).messages] == ["other"]
    store.delete("ann", damaged)
    assert [one.id for one in store.list("ann")] == [other]


def test_a_full_disk_is_one_sentence_and_what_was_kept_stays(tmp_path: Path) -> None:
    """Beyond the bound nothing is written; reading goes on, and small things fit again after deleting."""
    store = ConversationStore(_path(tmp_path), max_bytes=200_000)
    kept = store.begin("ann", None, (Message("user", "kept"),)).place.conversation_id
    with pytest.raises(HistoryUnavailable, match=r"full.*--data"):
        store.begin("ann", None, (Message("user", "x" * 1_000_000),))
    assert [s.id for s in store.list("ann")] == [kept]
    store.begin("ann", None, (Message("user", "small"),))
    assert len(store.list("ann")) == 2


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be is named."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(HistoryUnavailable, match="taken"):
        ConversationStore(tmp_path / "taken" / "history.sqlite3").list("ann")


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no open file")
def test_a_folder_deleted_while_it_is_open_is_made_again(tmp_path: Path) -> None:
    """What was kept is gone, as somebody wanted; what is written from now on is in a file again."""
    store = _filled(tmp_path / "data")
    shutil.rmtree(tmp_path / "data")
    assert store.list("ann") == ()
    store.begin("ann", None, (Message("user", "new"),))
    store.close()
    assert [one.title for one in ConversationStore(_path(tmp_path / "data")).list("ann")] == ["new"]


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no open file")
def test_a_file_replaced_while_it_is_open_is_opened_anew(tmp_path: Path) -> None:
    """By somebody's copy of it: what is written from then on is in that."""
    store = _filled(tmp_path)
    store.delete_all("nobody")
    shutil.copy(_path(tmp_path), tmp_path / "copy")
    store.begin("ann", None, (Message("user", "lost"),))
    for log in ("-wal", "-shm"):
        _path(tmp_path).with_name(_path(tmp_path).name + log).unlink()
    (tmp_path / "copy").replace(_path(tmp_path))
    store.begin("ann", None, (Message("user", "new"),))
    store.close()
    assert {one.title for one in ConversationStore(_path(tmp_path)).list("ann")} == {"new", "问题 with | and `code`"}


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no open file")
def test_two_who_find_the_file_damaged_go_on_with_the_same_fresh_one(tmp_path: Path) -> None:
    """It is set aside once; what the first then writes is not, and neither writes into what was set aside."""
    first, second = _filled(tmp_path), ConversationStore(_path(tmp_path))
    assert len(second.list("ann")) == 1
    second.begin("ann", None, (Message("user", "more"),))
    second.delete_all("nobody")  # empties the log, so that the damage below counts
    broken = b"this is no database at all" * 3000
    _path(tmp_path).write_bytes(broken)
    with pytest.raises(HistoryDamaged):
        first.list("ann")
    first.begin("ann", None, (Message("user", "fresh"),))
    assert [one.title for one in second.list("ann")] == ["fresh"]
    second.begin("ann", None, (Message("user", "again"),))
    assert {one.title for one in first.list("ann")} == {"fresh", "again"}
    first.close()
    second.close()
    assert [path.read_bytes() for path in tmp_path.glob("*.damaged-*[0-9]")] == [broken]
    assert len(ConversationStore(_path(tmp_path)).list("ann")) == 2


class _Meanwhile(sqlite3.Connection):
    """A connection before whose next statement of a kind another process does something."""

    opened = 0
    what: tuple[str, Callable[[], object]] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _Meanwhile.opened += 1

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if _Meanwhile.what is not None and sql.startswith(_Meanwhile.what[0]):
            (_, act), _Meanwhile.what = _Meanwhile.what, None
            act()
        return super().execute(sql, *values)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> type[_Meanwhile]:
    """Set ``what``; ``opened`` counts from 0."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=_Meanwhile))
    _Meanwhile.opened, _Meanwhile.what = 0, None
    return _Meanwhile


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no open file")
def test_a_damaged_file_that_another_process_sets_aside_before_a_statement(
    tmp_path: Path, meanwhile: type[_Meanwhile]
) -> None:
    """Whoever had it open says that there is a new one, and not that all was put right."""
    first, second = _filled(tmp_path), ConversationStore(_path(tmp_path))
    assert len(second.list("ann")) == 1
    first.begin("bob", None, (Message("user", "more"),))  # what the second has in memory counts no more
    first.delete_all("nobody")  # empties the log, so that the damage below counts
    first.close()
    _path(tmp_path).write_bytes(b"this is no database at all" * 3000)

    def sets_aside() -> None:
        for log in ("", "-wal", "-shm"):
            _path(tmp_path).with_name(_path(tmp_path).name + log).rename(tmp_path / f"aside{log}")
        fresh = ConversationStore(_path(tmp_path))
        fresh.begin("ann", None, (Message("user", "fresh"),))
        fresh.close()

    meanwhile.what = ("BEGIN", sets_aside)
    with pytest.raises(HistoryReplaced):
        second.list("ann")
    assert isinstance(second.take_notice(), HistoryReplaced)
    assert [one.title for one in second.list("ann")] == ["fresh"]
    second.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no open file")
@pytest.mark.parametrize("before", ["BEGIN", "COMMIT"])
def test_nothing_that_is_kept_is_in_a_file_that_was_moved(
    tmp_path: Path, meanwhile: type[_Meanwhile], before: str
) -> None:
    """It is written into the new one, or whoever wrote it is told; either way it is said that it is a new one."""
    store = _filled(tmp_path)
    meanwhile.what = (before, lambda: _path(tmp_path).rename(tmp_path / "aside"))
    if before == "BEGIN":
        store.begin("ann", None, (Message("user", "new"),))
    else:
        with pytest.raises(HistoryReplaced):
            store.begin("ann", None, (Message("user", "new"),))
    assert isinstance(store.take_notice(), HistoryReplaced)
    assert [one.title for one in store.list("ann")] == (["new"] if before == "BEGIN" else [])
    store.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no open file")
def test_an_answer_is_not_written_into_a_new_files_conversation(tmp_path: Path) -> None:
    """There its number is another visitor's answer's."""
    store = ConversationStore(_path(tmp_path))
    ann = store.begin("ann", None, (Message("user", "of ann"),))
    _path(tmp_path).rename(tmp_path / "aside")
    bob = store.begin("bob", None, (Message("user", "of bob"),))
    assert bob.answer_id == ann.answer_id
    assert not store.save_answer(ann, "ann's answer", "complete")
    store.save_sources(ann, Sources((), 1))
    assert store.save_answer(bob, "bob's answer", "interrupted")
    found = store.read("bob", bob.place.conversation_id).messages
    assert [(one.content, one.sources) for one in found] == [("of bob", None), ("bob's answer", None)]
    store.close()


@pytest.mark.parametrize(("numbers", "opened"), [("its own", 1), ("none", 1), ("another at each look", 3)])
def test_a_file_is_opened_once(
    tmp_path: Path, meanwhile: type[_Meanwhile], monkeypatch: pytest.MonkeyPatch, numbers: str, opened: int
) -> None:
    """Also where the file system has no numbers for files, and hardly more where it has ever new ones."""
    look, looks = Path.stat, iter(range(1, 1000))

    def numbered(path: Path, **options: Any) -> os.stat_result:
        found = list(look(path, **options))
        if numbers != "its own":
            found[stat.ST_INO] = 0 if numbers == "none" else next(looks)
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", numbered)
    store = ConversationStore(_path(tmp_path))
    for text in ("one", "two", "three"):
        store.begin("ann", None, (Message("user", text),))
    assert (len(store.list("ann")), store.take_notice(), meanwhile.opened) == (3, None, opened)
    store.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights in another way")
def test_file_and_key_are_their_owners_only(tmp_path: Path) -> None:
    """Neither others nor the group can read conversations, log or key."""
    folder = tmp_path / "new"
    visitor_key(folder)
    store = _filled(folder)
    rights = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert set(rights.values()) == {0o600}
    assert "visitor.key" in rights
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.close()


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    """A restart reads the key that the first start made; half a key would sign nothing safely, and is replaced."""
    key = visitor_key(tmp_path)
    assert len(key) == 32
    assert visitor_key(tmp_path) == key
    assert [p.name for p in tmp_path.iterdir()] == ["visitor.key"]
    (tmp_path / "visitor.key").write_bytes(b"short")
    assert len(visitor_key(tmp_path)) == 32


def test_the_folder_is_the_set_one(tmp_path: Path) -> None:
    """The setting wins; without it the folder is the system's own for users' data."""
    assert data_folder(Settings(data=str(tmp_path))) == tmp_path
    assert data_folder(Settings()).name == "chatglm-cpu"


def test_an_export_comes_back_whole(tmp_path: Path) -> None:
    """Titles, turns, states, figures and times survive, under new ids and for the importing visitor only."""
    store = _filled(tmp_path)
    before = store.last_open("ann")
    assert before is not None
    call = Calling("assistant", "", calls=(ToolCall("f", '{"a": "字"}'),))
    opened = store.begin(
        "ann", before.place, (*(turn.message for turn in before.messages), call, Message("tool", "42"))
    )
    store.save_answer(opened, "", "complete", calls=call.calls)
    before = store.last_open("ann")
    assert before is not None
    assert before.messages[-1].message == call
    (name,) = store.add_all("bob", from_json(to_json([before]).encode()))
    after = store.read("bob", name)
    assert after.id != before.id
    assert (after.title, after.created, after.updated) == (before.title, before.created, before.updated)
    assert after.messages == before.messages
    assert len(store.list("ann")) == 1


def test_markdown_is_for_reading(tmp_path: Path) -> None:
    """Title, headings for the roles, text as it is, and a mark where an answer broke off."""
    found = _filled(tmp_path).last_open("ann")
    assert found is not None
    text = to_markdown([found], _NAMES, lambda one: one.label)
    assert text.startswith("# 问题 with | and `code`\n")
    assert "## You\n" in text
    assert "## Model (interrupted)\n\n答案\n\n```py\nx = 1\n```" in text


def _export(**changes: object) -> bytes:
    message = {"role": "user", "content": "hi", "state": "complete", "timing": None, "created": 1.0}
    message.update({k: v for k, v in changes.items() if k in message})
    one = {"title": "t", "created": 1.0, "updated": 1.0, "messages": [message]}
    one.update({k: v for k, v in changes.items() if k in ("title", "messages", "updated")})
    body = {"format": "chatglm-conversations", "version": 1, "conversations": [one]}
    body.update({k: v for k, v in changes.items() if k in body})
    return json.dumps(body).encode()


def test_the_smallest_export_is_read() -> None:
    """The form that the refusals below change is itself right."""
    assert from_json(_export())[0].messages[0].content == "hi"


def test_a_documents_name_is_one_line() -> None:
    """As where it was attached: what follows a line break would stand beside the card."""
    message = {"role": "user", "content": "hi", "created": 1.0, "documents": [{"name": "a/b\nc\u2028.txt"}]}
    [one] = from_json(_export(messages=[message]))[0].messages[0].documents
    assert len(one.name.splitlines()) == 1
    assert one.name == "b c .txt"


WRONG: dict[str, list[Any]] = {
    "format": ["other"],
    "version": [2],
    "conversations": [{}, [], [1]],
    "messages": ["no", [[]]],
    "title": [5],
    "role": ["root"],
    "content": [None],
    "state": ["running"],
    "timing": [[1], {"a": "b"}, {"a": 10**400}],
    "created": [-1, True],
    "updated": [float("nan"), "yesterday"],
}
FOREIGN = (b"", b"\xff\xfe", b"[]", b"[" * 100_000, b" " * 8_000_001)


@pytest.mark.parametrize(
    "data",
    [*FOREIGN, *(_export(**{field: value}) for field, values in WRONG.items() for value in values)],
    ids=range(23),
)
def test_anything_else_is_refused(data: bytes) -> None:
    """A file that is not ours in every field is one clear refusal."""
    with pytest.raises(ImportRefused):
        from_json(data)
