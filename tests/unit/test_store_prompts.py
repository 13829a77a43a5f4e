"""Saved prompts: each visitor's own, by name, within bounds that are said."""

from __future__ import annotations

from pathlib import Path

from refusals import refused

from chatglm_backend.errors import PromptNotSaved
from chatglm_backend.sentences import load_texts
from chatglm_backend.settings import Settings
from chatglm_backend.store.prompts import MOST_CHARACTERS, MOST_PROMPTS
from chatglm_backend.ui.history import Command, History
from chatglm_backend.ui.history_list import conversation_list


def _prompts(history: History, visitor: str = "ann") -> list[tuple[str, str]]:
    return [(one.name, one.text) for one in history.store.prompts.list(visitor)]


def test_a_prompt_is_saved_replaced_and_deleted_by_its_visitor_only(tmp_path: Path) -> None:
    """By name, across a restart; it outlives the conversations."""
    history = History(Settings(data=str(tmp_path)))
    for action, name, text in (
        ("save", "  b\n name ", "<b>one</b>"),
        ("save", "a", "two"),
        ("replace", "b name", "three"),
    ):
        assert history.carry_out("ann", Command(f"{action}_prompt", name, text), None) is None
    history.carry_out("bob", Command("delete_prompt", "a"), None)
    history.carry_out("ann", Command("delete_all"), None)
    history = History(Settings(data=str(tmp_path)))
    assert _prompts(history) == [("a", "two"), ("b name", "three")]
    assert _prompts(history, "bob") == []
    history.carry_out("ann", Command("delete_prompt", "b name"), None)
    history.store.prompts.save("ann", "<i>", 'x"<b>')
    listing = conversation_list(load_texts("en"), history, "ann", "", None)
    assert "Saved prompts (2)" in listing
    assert 'data-insert="x&quot;&lt;b&gt;"' in listing
    assert "<i>" not in listing


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    """Nothing, too much, too many; a name that is there already is only written over where that is asked for."""
    prompts = History(Settings(data=str(tmp_path))).store.prompts
    for name, text in (("", "text"), ("name", " \n")):
        with refused(PromptNotSaved, "prompts.nothing"):
            prompts.save("ann", name, text)
    with refused(PromptNotSaved, "prompts.long", most=MOST_CHARACTERS):
        prompts.save("ann", "name", "x" * (MOST_CHARACTERS + 1))
    for number in range(MOST_PROMPTS):
        prompts.save("ann", f"n{number}", "text")
    with refused(PromptNotSaved, "prompts.full", most=MOST_PROMPTS):
        prompts.save("ann", "more", "text")
    with refused(PromptNotSaved, "prompts.exists"):
        prompts.save("ann", " n5", "other")
    prompts.save("ann", "n5", "other", replace=True)
    assert len(prompts.list("ann")) == MOST_PROMPTS
    assert [one.text for one in prompts.list("ann") if one.name == "n5"] == ["other"]
