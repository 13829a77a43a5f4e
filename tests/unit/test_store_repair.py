"""Texts that change in the conversations' file, wherever they stand: what each costs, and that it costs no more."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Passage, Sources
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import ConversationDamaged, HistoryDamaged, HistoryRepaired
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.records import Attached, Conversation
from chatglm_backend.store.repair import repair
from chatglm_backend.store.schema import migrate
from chatglm_backend.tokenizers.tools import ToolCall

DOCUMENT = Document("doc-name.txt", ("page-text",))
SOURCES = Sources((Passage(0, DOCUMENT.name, None, "page", 0),), 1)


def _filled(file: Path) -> tuple[str, str]:
    """A conversation of ann's that has everything, a plain one of bob's, and a prompt of each; ann's and bob's."""
    store = ConversationStore(file)
    opened = store.begin("bob", None, (Message("user", "other"),))
    store.save_answer(opened, "other", "complete")
    store.prompts.save("bob", "another", "another")
    asked = Attached("user", "question-text", documents=(DOCUMENT,))
    ann = store.begin("visitor-ann", None, (asked,), adapter="adapter-name")
    store.save_answer(ann, "answer-text", "interrupted", {"ttft-name": 0.5}, (ToolCall("tool-name", "{}"),))
    store.save_sources(ann, SOURCES)
    store.rename("visitor-ann", ann.place.conversation_id, "title-text")
    store.prompts.save("visitor-ann", "prompt-name", "prompt-text")
    store.delete_all("nobody")  # empties the log, so that damage to the file counts
    store.close()
    return ann.place.conversation_id, opened.place.conversation_id


def _kept(one: Conversation | None) -> object:
    """A conversation without what may change and be seen to."""
    return None if one is None else replace(one, title="", adapter="", revision=0)


@pytest.mark.parametrize("bad", [b"\xff", b"~"])
def test_a_changed_text_costs_at_most_its_conversation(tmp_path: Path, bad: bytes) -> None:
    """Each text of each column, in tables and in indexes: what names a row is put right, what was said is refused.

    Titles, names of fine-tunes and saved prompts are shown as they are then. The others' things stay, and what is
    damaged can be deleted.
    """
    file = tmp_path / "history.sqlite3"
    ann, bob = _filled(file)
    whole, store = file.read_bytes(), ConversationStore(file)
    right, others = store.read("visitor-ann", ann), store.read("bob", bob)
    store.close()
    keys = {"visitor-ann", ann}
    texts = {
        DOCUMENT.id,
        "doc-name",
        "page-text",
        "question-text",
        "answer-text",
        "interrupted",
        "ttft-name",
        "tool-name",
    }
    texts |= {"title-text", "adapter-name", "prompt-name", "prompt-text"}
    seen: dict[str, int] = {}
    for text in sorted(keys | texts):
        for found in re.finditer(re.escape(text.encode()), whole):
            seen[text] = seen.get(text, 0) + 1
            for left in tmp_path.iterdir():
                left.unlink()
            file.write_bytes(whole[: found.start() + 1] + bad + whole[found.start() + 2 :])
            store = ConversationStore(file)
            assert [one.id for one in store.list("visitor-ann")] == [ann]
            try:
                assert _kept(store.read("visitor-ann", ann)) == _kept(right)
                assert _kept(store.last_open("visitor-ann")) in (_kept(right), None)
            except ConversationDamaged:
                assert text not in keys
            assert len(store.prompts.list("visitor-ann")) == 1
            store.delete("visitor-ann", ann)
            assert store.list("visitor-ann") == ()
            assert store.read("bob", bob) == others
            assert [one.name for one in store.prompts.list("bob")] == ["another"]
            assert store.take_notice() is None
            store.close()
    assert seen.keys() == keys | texts
    assert (seen["visitor-ann"], seen[ann], seen[DOCUMENT.id], seen["answer-text"]) == (6, 9, 3, 1)


@pytest.mark.parametrize("bad", [b"\xff", b"~"])
def test_a_prompt_of_one_without_a_conversation_stays_theirs(tmp_path: Path, bad: bytes) -> None:
    """Its owner stands in the table and in the index only, and which of them is right is known."""
    file = tmp_path / "history.sqlite3"
    store = ConversationStore(file)
    store.prompts.save("visitor-ann", "name", "text")
    store.delete_all("nobody")
    store.close()
    whole = file.read_bytes()
    places = [found.start() for found in re.finditer(b"visitor-ann", whole)]
    for place in places:
        file.write_bytes(whole[: place + 1] + bad + whole[place + 2 :])
        store = ConversationStore(file)
        assert [one.text for one in store.prompts.list("visitor-ann")] == ["text"]
        store.prompts.save("visitor-ann", "name", "other", replace=True)
        assert [one.text for one in store.prompts.list("visitor-ann")] == ["other"]
        assert store.take_notice() is None
        store.close()
    assert len(places) == 2


def test_putting_right_writes_only_what_differs(tmp_path: Path) -> None:
    """A message with another damage is found afterwards, and the file is not written anew as a whole."""
    file = tmp_path / "history.sqlite3"
    ann, _ = _filled(file)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(ann.encode() + b"user", b"~" + ann[1:].encode() + b"user"))
    connection = sqlite3.connect(file, isolation_level=None)
    migrate(connection)
    digests = connection.execute("SELECT * FROM checks").fetchall()
    before = connection.total_changes
    repair(connection)
    assert connection.total_changes - before == 3  # the message, and its digest there and back; of four messages
    assert connection.execute("SELECT * FROM checks").fetchall() == digests
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_key_that_changes_while_the_file_is_open(tmp_path: Path) -> None:
    """Sqlite meets it when the conversation is deleted: the file is put right, not set aside, and then it works."""
    file = tmp_path / "history.sqlite3"
    ann, bob = _filled(file)
    store, other = ConversationStore(file), ConversationStore(file)
    assert len(store.list("visitor-ann")) == 1
    other.prompts.save("bob", "third", "third")  # what the first has in memory counts no more
    whole = file.read_bytes()
    file.write_bytes(whole.replace(ann.encode() + b"user", b"~" + ann[1:].encode() + b"user"))
    assert file.read_bytes() != whole
    with pytest.raises(HistoryRepaired, match="Try again"):
        store.delete("visitor-ann", ann)
    assert len(store.read("visitor-ann", ann).messages) == 2
    store.delete("visitor-ann", ann)
    assert (store.list("visitor-ann"), len(store.read("bob", bob).messages)) == ((), 2)
    assert store.take_notice() is None
    store.close()
    other.close()


def test_a_table_whose_name_is_damaged_while_the_file_is_open(tmp_path: Path) -> None:
    """Sqlite's own message is no text then; the store's error tells that the file was set aside."""
    file = tmp_path / "history.sqlite3"
    _filled(file)
    store = ConversationStore(file)
    assert len(store.list("bob")) == 1
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA writable_schema = ON")
    other.execute("UPDATE sqlite_master SET sql = CAST(x'435245415445205441424c4520ff' AS TEXT) WHERE name = 'prompts'")
    other.execute("PRAGMA schema_version = 999")
    other.close()
    with pytest.raises(HistoryDamaged):
        store.list("bob")
    assert store.list("bob") == ()
