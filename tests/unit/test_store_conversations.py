"""Kept conversations: apart, complete, found again, safe from two tabs and many threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatglm_backend.core import Message
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import ConversationChanged, ConversationGone
from chatglm_backend.store.conversations import ConversationStore, title_from
from chatglm_backend.store.records import Attached, Conversation, Place, StoredMessage
from chatglm_backend.store.transfer import to_json

_DAY = 86_400.0


class _Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.time = 1_000_000_000.0

    def __call__(self) -> float:
        self.time += 1
        return self.time


def _store(folder: Path, **options: object) -> ConversationStore:
    return ConversationStore(folder / "history.sqlite3", **options)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    """An empty store."""
    return _store(tmp_path)


def _ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def test_a_question_and_its_answer_are_kept(store: ConversationStore, tmp_path: Path) -> None:
    """Another store on the same file finds them, with state and figures."""
    opened = store.begin("ann", None, _ask("What is AI?"))
    store.save_answer(opened, "A field", "complete", {"ttft_s": 0.5})
    store.close()
    found = _store(tmp_path).last_open("ann")
    assert found is not None
    assert found.title == "What is AI?"
    assert [(m.role, m.content, m.state) for m in found.messages] == [
        ("user", "What is AI?", "complete"),
        ("assistant", "A field", "complete"),
    ]
    assert found.messages[1].timing == {"ttft_s": 0.5}


def test_an_answer_without_an_end_reads_as_interrupted(store: ConversationStore, tmp_path: Path) -> None:
    """After a crash between two saves the text so far is there, marked."""
    opened = store.begin("ann", None, _ask("slow"))
    store.save_answer(opened, "half", "interrupted")
    found = _store(tmp_path).read("ann", opened.place.conversation_id)
    assert [(m.content, m.state) for m in found.messages][-1] == ("half", "interrupted")


def test_an_answer_that_never_began_is_not_shown(store: ConversationStore) -> None:
    """The question alone is found, and the next question takes the empty place."""
    opened = store.begin("ann", None, _ask("one"))
    assert [m.content for m in store.read("ann", opened.place.conversation_id).messages] == ["one"]
    again = store.begin("ann", opened.place, (*_ask("one"), *_ask("two")))
    store.save_answer(again, "2", "complete")
    assert [m.content for m in store.read("ann", again.place.conversation_id).messages] == ["one", "two", "2"]


def test_nobody_sees_or_changes_anothers(store: ConversationStore) -> None:
    """Each way to a conversation ends at its owner."""
    place = store.begin("ann", None, _ask("secret")).place
    name = place.conversation_id
    assert store.list("bob") == ()
    assert store.list("bob", "secret") == ()
    for attempt in (
        lambda: store.read("bob", name),
        lambda: store.open("bob", name),
        lambda: store.rename("bob", name, "mine"),
        lambda: store.begin("bob", place, _ask("mine")),
        lambda: store.cut("bob", place, 0),
    ):
        with pytest.raises(ConversationGone):
            attempt()
    store.delete("bob", name)
    assert store.delete_all("bob") == 0
    assert [s.title for s in store.list("ann")] == ["secret"]


@pytest.mark.parametrize("text", ["100%", "a_b", "it's", 'say "hi"', "back\\slash", "“引号”", "'; DROP TABLE x; --"])
def test_search_takes_every_character_as_it_is(store: ConversationStore, text: str) -> None:
    """Wildcards and quotes are found where they stand, and nowhere else."""
    store.begin("ann", None, _ask("100 aXb its say hi backslash"))
    wanted = store.begin("ann", None, _ask(f"see {text} here")).place.conversation_id
    assert [s.id for s in store.list("ann", text)] == [wanted]


def test_search_reads_answers_too(store: ConversationStore) -> None:
    """A word that only the model used leads to the conversation."""
    opened = store.begin("ann", None, _ask("What is AI?"))
    store.begin("ann", None, _ask("Something else"))
    store.save_answer(opened, "机器学习的领域", "complete")
    assert [s.title for s in store.list("ann", "学习")] == ["What is AI?"]


def test_search_reads_names_of_documents(store: ConversationStore) -> None:
    """Not what they say."""
    store.begin("ann", None, (Attached("user", "When?", documents=(Document("租约 2026.pdf", ("rent",)),)),))
    store.begin("ann", None, _ask("Something else"))
    assert [[s.title for s in store.list("ann", text)] for text in ("租约", "rent")] == [["When?"], []]


def test_the_list_begins_with_what_changed_last(tmp_path: Path) -> None:
    """An answer moves its conversation to the front."""
    store = _store(tmp_path, now=_Clock())
    first = store.begin("ann", None, _ask("first"))
    store.begin("ann", None, _ask("second"))
    assert [s.title for s in store.list("ann")] == ["second", "first"]
    store.save_answer(first, "1", "complete")
    assert [s.title for s in store.list("ann")] == ["first", "second"]


def test_a_second_tab_cannot_overwrite_the_first(tmp_path: Path) -> None:
    """The tab that did not see the last change is told; what the other wrote stays."""
    one, two = _store(tmp_path), _store(tmp_path)
    seen = one.begin("ann", None, _ask("start")).place
    ahead = one.begin("ann", seen, (*_ask("start"), *_ask("from one")))
    with pytest.raises(ConversationChanged):
        two.begin("ann", seen, (*_ask("start"), *_ask("from two")))
    with pytest.raises(ConversationChanged):
        two.cut("ann", seen, 0)
    assert [m.content for m in two.read("ann", ahead.place.conversation_id).messages] == ["start", "from one"]


def _shown(conversation: Conversation) -> list[tuple[str, int, int]]:
    pairs = zip(conversation.messages, conversation.versions, strict=True)
    return [(message.content, *version) for message, version in pairs]


def _answered(store: ConversationStore, place: Place | None, turns: str, answer: str) -> Place:
    """Ask the last of ``turns``, words for user and model in turn, and have it answered."""
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], word) for i, word in enumerate(turns.split())]  # type: ignore[arg-type]
    opened = store.begin("ann", place, messages)
    store.save_answer(opened, answer, "complete")
    return opened.place


def test_an_edited_question_and_an_answer_made_again_are_versions(store: ConversationStore, tmp_path: Path) -> None:
    """The newest is chosen; going to another takes along what followed it, as it was left, also after a restart."""
    place = _answered(store, None, "q", "a")
    place = _answered(store, place, "q a r", "b")
    place = _answered(store, place, "q a r", "c")
    place = _answered(store, place, "Q", "A")
    found = store.read("ann", place.conversation_id)
    assert _shown(found) == [("Q", 2, 2), ("A", 1, 1)]
    found = store.switch("ann", found.place, 0, -1)
    assert _shown(found) == [("q", 1, 2), ("a", 1, 1), ("r", 1, 1), ("c", 2, 2)]
    found = store.switch("ann", found.place, 3, -1)
    assert _shown(found)[-1] == ("b", 1, 2)
    assert store.switch("ann", found.place, 3, -1).messages == found.messages  # there is none before it
    store.close()
    again = _store(tmp_path).last_open("ann")
    assert again is not None
    assert _shown(again) == _shown(found)
    assert [m["content"] for m in json.loads(to_json([again]))["conversations"][0]["messages"]] == ["q", "a", "r", "b"]


def test_an_answer_that_is_replaced_while_it_is_written_is_a_version(store: ConversationStore) -> None:
    """It keeps what it writes, and does not get into the place of the new one."""
    old = store.begin("ann", None, _ask("q"))
    store.save_answer(old, "o", "interrupted")
    new = store.begin("ann", old.place, _ask("q"))
    assert new.versions == ((1, 1), (2, 2))
    store.save_answer(new, "new", "complete")
    store.save_answer(old, "old", "complete")
    assert _shown(store.read("ann", new.place.conversation_id)) == [("q", 1, 1), ("new", 2, 2)]


def test_an_answer_is_gone_on_with_in_its_place_and_an_edited_one_is_a_version(store: ConversationStore) -> None:
    """Words are added to the one that was cut; an edited beginning stands beside the answer that it came from."""
    opened = store.begin("ann", None, _ask("q"))
    store.save_answer(opened, "half", "interrupted")
    more = store.begin("ann", opened.place, (*_ask("q"), Message("assistant", "half")))
    assert more.answer_id == opened.answer_id
    other = store.begin("ann", more.place, (*_ask("q"), Message("assistant", "ha")))
    assert _shown(store.read("ann", other.place.conversation_id)) == [("q", 1, 1), ("ha", 2, 2)]


def test_an_earlier_answer_that_goes_on_from_its_own_words_keeps_what_followed_it(store: ConversationStore) -> None:
    """The new answer has nothing behind it; the old one, whole, still has its own; refused, all is as it was."""
    place = _answered(store, _answered(store, None, "q", "a"), "q a r", "b")
    before = store.read("ann", place.conversation_id)
    asked = (*_ask("q"), Message("assistant", "a"))
    refused = store.withdraw("ann", store.begin("ann", place, asked))
    assert refused is not None
    assert _shown(refused) == _shown(before)
    more = store.begin("ann", refused.place, asked)
    store.save_answer(more, "a and more", "complete")
    found = store.read("ann", place.conversation_id)
    assert _shown(found) == [("q", 1, 1), ("a and more", 2, 2)]
    assert store.switch("ann", found.place, 1, -1).messages == before.messages


@pytest.mark.parametrize("turns", ["q a refused", "Q", "q"])
def test_what_is_refused_leaves_nothing(store: ConversationStore, turns: str) -> None:
    """A next question, another version of the first, another answer: all is as it was before."""
    place = _answered(store, None, "q", "a")
    before = store.read("ann", _answered(store, place, "q", "b").conversation_id)
    roles = ("user", "assistant", "user")
    asked = [Message(role, word) for role, word in zip(roles, turns.replace(" a ", " b ").split(), strict=False)]  # type: ignore[arg-type]
    found = store.withdraw("ann", store.begin("ann", before.place, asked))
    assert found is not None
    assert (_shown(found), found.place) == (_shown(before), Place(before.id, before.revision + 1))
    assert store.withdraw("ann", store.begin("ann", None, _ask("new"))) is None
    assert [s.id for s in store.list("ann")] == [before.id]


def test_going_back_shows_the_version_before(store: ConversationStore) -> None:
    """Taking a question back deletes it with all answers to it; one without a version leaves a shorter branch."""
    place = _answered(store, None, "q", "a")
    place = _answered(store, place, "Q", "A")
    found = store.cut("ann", place, 0)
    assert _shown(found) == [("q", 1, 1), ("a", 1, 1)]
    assert store.cut("ann", found.place, 1).messages == found.messages[:1]


def test_a_long_conversation_is_no_deep_matter(store: ConversationStore) -> None:
    """Thousands of messages behind each other are read, cut and deleted."""
    messages = tuple(StoredMessage("user" if i % 2 == 0 else "assistant", str(i)) for i in range(4000))
    store.add_all("ann", [Conversation("", "long", 1, 1, 0, messages)])
    found = store.last_open("ann")
    assert found is not None
    assert len(found.messages) == 4000
    assert len(store.cut("ann", found.place, 2).messages) == 2
    assert store.delete_all("ann") == 1


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    """Eight threads on two stores begin and answer; each word is found."""
    stores = (_store(tmp_path), _store(tmp_path))

    def work(number: int) -> None:
        store = stores[number % 2]
        place, turns = None, ()
        for turn in range(5):
            turns = (*turns, Message("user", f"{number}.{turn}"))
            opened = store.begin("ann", place, turns)
            place = opened.place
            store.save_answer(opened, f"answer {number}.{turn}", "complete")
            turns = (*turns, Message("assistant", f"answer {number}.{turn}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    counts = [len(stores[0].read("ann", s.id).messages) for s in stores[0].list("ann")]
    assert counts == [10] * 8


def test_two_tabs_racing_for_one_place_are_told_apart(store: ConversationStore) -> None:
    """Of many tabs that answer the same revision exactly one gets it."""
    place = store.begin("ann", None, _ask("start")).place

    def work(number: int) -> str:
        try:
            store.begin("ann", place, (*_ask("start"), *_ask(str(number))))
        except ConversationChanged:
            return "changed"
        return "kept"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(work, range(6))) == ["changed"] * 5 + ["kept"]


@pytest.mark.parametrize("days", [30, 0])
def test_old_conversations_go_after_the_retention(tmp_path: Path, days: int) -> None:
    """What was not touched for so many days is deleted; 0 days keeps it, years later too."""
    clock = _Clock()
    store = _store(tmp_path, retention_days=days, now=clock)
    store.begin("ann", None, _ask("old"))
    clock.time += (29 if days else 5000) * _DAY
    store.begin("ann", None, _ask("young"))
    assert [s.title for s in store.list("ann")] == ["young", "old"]
    clock.time += 2 * _DAY
    assert [s.title for s in store.list("ann")] == (["young"] if days else ["young", "old"])


def test_a_clock_that_jumped_deletes_nothing(tmp_path: Path) -> None:
    """Years on and back again, over restarts, all is there; a clock that stays deletes what is old a day later."""
    clock = _Clock()
    now = clock.time
    store = _store(tmp_path, retention_days=30, now=clock)
    store.begin("ann", None, _ask("kept"))
    for moment in (now + 5000 * _DAY, now + 5000.5 * _DAY, now + _DAY, now - 5000 * _DAY, now + 2 * _DAY):
        clock.time = moment
        store.close()
        store = _store(tmp_path, retention_days=30, now=clock)
        assert [s.title for s in store.list("ann")] == ["kept"]
    clock.time = now + 40 * _DAY  # whoever comes back after holidays finds that gone at once
    assert store.list("ann") == ()
    store.begin("ann", None, _ask("of this day"))
    clock.time += 5000 * _DAY
    assert len(store.list("ann")) == 1
    clock.time += _DAY
    assert store.list("ann") == ()


def test_deleted_text_is_in_no_file_any_more(store: ConversationStore, tmp_path: Path) -> None:
    """After deleting all, neither the file nor its log holds a word of it."""
    store.begin("bob", None, _ask("stays"))
    store.begin("ann", None, _ask("unforgettable-words"))
    assert store.delete_all("ann") == 1
    assert store.last_open("ann") is None
    for path in tmp_path.iterdir():
        assert b"unforgettable-words" not in path.read_bytes(), path.name
    assert [s.title for s in store.list("bob")] == ["stays"]


def test_a_new_conversation_is_remembered_as_such(store: ConversationStore) -> None:
    """After leaving, nothing is open; after deleting the open one, neither."""
    name = store.begin("ann", None, _ask("one")).place.conversation_id
    store.leave("ann")
    assert store.last_open("ann") is None
    store.open("ann", name)
    store.delete("ann", name)
    assert store.last_open("ann") is None


def test_half_a_character_pair_does_no_harm(store: ConversationStore) -> None:
    """What a browser may send as broken text is kept as a mark."""
    store.begin("ann", None, _ask("bad \ud83d end"))
    assert [s.title for s in store.list("ann")] == ["bad ? end"]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n\n  What is AI?  \nmore", "What is AI?"),
        ("", ""),
        ("字" * 80, "字" * 59 + "…"),
        ("many words " * 10, "many words many words many words many words many words…"),
    ],
)
def test_a_title_is_one_short_line(text: str, title: str) -> None:
    """The first line that says something, cut at a word."""
    assert title_from(text) == title
