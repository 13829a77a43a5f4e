"""The Chat page's logic: what is sent, what no longer fits, and where one goes back to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.core import AdapterInfo, GenerationParams, Message
from chatglm_backend.errors import QueueFull
from chatglm_backend.models.config import family_named_in
from chatglm_backend.sentences import load_texts
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Calling
from chatglm_backend.testing import PART, SCENES, Script, ScriptedModel, scripted_info, scripted_service
from chatglm_backend.tokenizers.code import completes_code, is_base
from chatglm_backend.tokenizers.tools import ToolCall, offer_text
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Interrupted, Turns, back_to_user, fit, shown
from chatglm_backend.ui.history import History, Moved
from chatglm_backend.ui.markdown import as_typed
from chatglm_backend.ui.presenter import Presenter
from chatglm_backend.ui.tools import cards
from tests.unit.page_views import shown as all_views

ANN = Caller("ann", "tab", "ann")
_TALK: Turns = (Message("user", "one"), Message("assistant", "1"), Message("user", "two"), Message("assistant", "2"))


def _chat(**info: object) -> tuple[ScriptedModel, ChatPresenter]:
    model = ScriptedModel(info=replace(scripted_info(), **info))  # type: ignore[arg-type]
    service, settings = scripted_service(model), Settings(history=False)
    return model, ChatPresenter(service, PageAnswers(service, settings), History(settings), load_texts("en"))


def _ask(
    presenter: ChatPresenter, action: str, turns: Turns, index: int = 0, text: str = "", tokens: int = 512,
    system: str = "", tools: str = "", act: Callable[[ChatView], object] = lambda _: None, **form: Any,
) -> list[ChatView]:  # fmt: skip
    asked = presenter.asked(action, turns, index, text)
    form = ChatForm(lambda: GenerationParams(max_new_tokens=tokens), system, tools, **form)
    return all_views(lambda: presenter.answer(ANN, None, turns, asked, form), act)


def _send(presenter: ChatPresenter, turns: Turns, text: str, **how: Any) -> list[ChatView]:
    return _ask(presenter, "send", turns, text=text, **how)


def _length(messages: Turns) -> int:
    return sum(len(message.content) for message in messages)


def test_the_question_appears_at_once_and_the_answer_follows() -> None:
    """The question leaves the box with the first view; the last holds both turns."""
    _, presenter = _chat()
    views = _send(presenter, (), "What is AI?")
    assert (views[0].turns, views[0].taken) == ((Message("user", "What is AI?"),), views[0].id)
    assert not any(view.taken or view.put for view in views[1:])
    assert views[-1].turns[-1] == Message("assistant", "AI is the study of machines that learn.")


def test_a_call_of_a_tool_is_a_card_and_its_result_is_the_next_message() -> None:
    """The model is offered the tools and given call and result in its own form; nothing is run."""
    call = Script(("\n", " I look.", PART, "get_weather\n ```python\n", "tool_call(city='<b>')\n```"))
    scenes = {"weather": call, "21": Script(("\n", "Sunny."))}
    model, presenter = _chat(family="chatglm3", tools=True)
    model.scenes = scenes
    tools = '[{"name": "get_weather", "description": "d", "parameters": {"type": "object"}}]'
    called = _send(presenter, (), "weather?", tools=tools, system="Be brief.")[-1].turns
    assert called[1] == Calling("assistant", "I look.", calls=(ToolCall("get_weather", '{"city": "<b>"}'),))
    told = _send(presenter, called, "```\n21\n```", tools=tools)[-1].turns
    assert told[2:] == (Message("tool", "```\n21\n```"), Message("assistant", "Sunny."))
    sent = model.requests[-1].messages
    assert [(turn.role, turn.tool) for turn in sent] == [
        ("system", ""), ("user", ""), ("assistant", ""), ("assistant", "get_weather"), ("tool", "")
    ]  # fmt: skip
    assert sent[0].content == offer_text(json.loads(tools))
    assert model.requests[0].messages[1].content == "Be brief."
    look = shown(told, "", partial(cards, load_texts("en")))
    assert [turn["role"] for turn in look] == ["user", "assistant", "user", "assistant"]
    card = look[1]["content"][-1]["text"]
    assert "<summary>Call: get_weather</summary>" in card
    assert '```json\n{\n  "city": "<b>"\n}\n```' in card
    assert "````\n```\n21\n```\n````" in look[2]["content"][0]["text"]
    assert "send the result" in shown(called, "", partial(cards, load_texts("en")))[1]["content"][-1]["text"]
    edited = presenter.asked("edit", told, 2, look[2]["content"][0]["text"].replace("21", "22"))
    assert edited == (*called, Message("tool", "```\n22\n```"))
    assert presenter.asked("regenerate", told, 3, "") == told[:3]
    assert presenter.undo(told, 3) == Moved(called, None, "```\n21\n```")
    assert _send(presenter, (), "weather?")[-1].turns[1].content.endswith("```")  # nothing was offered: it is text
    for wrong in ("{", "{}", '["f"]', '[{"name": "a b"}]'):
        assert "JSON list of functions" in _send(presenter, (), "weather?", tools=wrong)[-1].status


def test_a_question_that_is_quicker_than_the_page_is_answered() -> None:
    """What a fresh page restores does not stop, or hide, an answer that was asked for in that tab already."""
    model, presenter = _chat()
    late: list[ChatView] = []

    async def both() -> list[ChatView]:
        asked = presenter.asked("send", (), 0, "What is AI?")
        answer = presenter.answer(ANN, None, (), asked, ChatForm(GenerationParams, ""))
        views = [await anext(answer)]
        late.extend([view async for view in presenter.show(ANN, Moved(_TALK), None, fresh=True)])
        return views + [view async for view in answer]

    views = asyncio.run(both())
    assert (late, model.answers[0].cancelled) == ([], False)
    assert views[-1].turns[-1] == Message("assistant", "AI is the study of machines that learn.")


def test_the_whole_conversation_is_sent() -> None:
    """Earlier turns go with the new question."""
    model, presenter = _chat()
    _send(presenter, _TALK, "three")
    assert model.requests[0].messages == (*_TALK, Message("user", "three"))


def test_a_system_prompt_goes_to_every_family_and_the_page_says_how() -> None:
    """ChatGLM3 has a role for it, ChatGLM reads it in front of the first question; nothing else is sent of it."""
    for family, words in (("chatglm3", "role of its own"), ("chatglm", "in front of the first question")):
        model, presenter = _chat(family=family)
        _send(presenter, _TALK, "hello", system=" Be brief. ")
        assert model.requests[0].messages == (Message("system", "Be brief."), *_TALK, Message("user", "hello"))
        service = scripted_service(model)
        assert words in Presenter(service, PageAnswers(service), load_texts("en")).header().system


def test_a_model_that_completes_code_begins_as_typed() -> None:
    """CodeGeeX2 gets prompts as typed behind a language, and examples that name one; the others get the recipe."""
    for code in (True, False):
        service = scripted_service(ScriptedModel(info=replace(scripted_info(), completes_code=code)))
        presenter = Presenter(service, PageAnswers(service), load_texts("zh"))
        header = presenter.header()
        assert (header.prompt_format, header.completes_code) == ("raw" if code else "recipe", code)
        assert ("# language: Python" in header.examples) is code
        assert bool(presenter.completion_note()) is code
        assert presenter.language("Go") == ("Go" if code else "")
    assert completes_code("THUDM/codegeex2-6b-int4")
    assert not completes_code("THUDM/chatglm2-6b")
    assert family_named_in("THUDM/codegeex2-6b-int4") == "chatglm2"


def test_a_base_model_goes_on_with_what_was_typed_until_it_has_a_fine_tune() -> None:
    """The Chat page says so; nothing else changes."""
    tuned = (AdapterInfo("chatty", "lora", 8, 1000, "", "chatty", "chatty"),)
    for name, adapters, told in (
        ("THUDM/chatglm3-6b-base", (), True),
        ("chatglm3-6b-base", tuned, False),
        ("my-base", (), False),
    ):
        info = replace(scripted_info(), is_base=is_base(name), adapters=adapters)
        service = scripted_service(ScriptedModel(info=info))
        presenter = Presenter(service, PageAnswers(service), load_texts("en"))
        assert ("base model" in presenter.completion_note()) is told
        assert presenter.header().prompt_format == ("raw" if told else "recipe")
        assert not presenter.header().completes_code


def test_rounds_are_dropped_whole_and_from_the_front() -> None:
    """A question never loses its answer, the system message and the last question stay."""
    system = Message("system", "s")
    fitted = fit((system, *_TALK, Message("user", "three")), _length, limit=12, reserve=2)
    assert fitted.messages == (system, *_TALK[2:], Message("user", "three"))
    assert (fitted.dropped, fitted.used) == (1, 10)
    long = fit((Message("user", "x" * 99),), _length, limit=10, reserve=2)  # kept: the engine says that it does not fit
    assert (len(long.messages), long.dropped) == (1, 0)
    few = fit((system, *_TALK, Message("user", "three")), _length, limit=99, reserve=2, rounds=1)
    assert (few.messages, few.dropped) == (fitted.messages, 1)
    assert fit(_TALK[:3], _length, limit=99, reserve=2, rounds=1).dropped == 0


def test_dropped_rounds_are_said_on_the_page() -> None:
    """The notice names how many rounds the model did not see."""
    _, presenter = _chat(context_limit=40)
    views = _send(presenter, _TALK, "three")
    assert "the earliest rounds were left out of this answer (2)" in views[-1].context
    assert len(views[-1].turns) == 6


def test_a_small_model_is_sent_the_rounds_that_it_can_use() -> None:
    """The page keeps all turns and says quietly how many are sent, once some are not."""
    model, presenter = _chat(chat_rounds=1)
    views = _send(presenter, _TALK, "three")
    assert [message.content for message in model.requests[0].messages] == ["two", "2", "three"]
    assert "at most 1 round" in views[-1].context
    assert "cg-demo" not in views[-1].context
    assert len(views[-1].turns) == 6
    assert "round" not in _send(presenter, _TALK[:2], "two")[-1].context


def test_an_answer_is_asked_no_longer_than_the_context_allows() -> None:
    """Prompt and new tokens together stay within the limit."""
    model, presenter = _chat(context_limit=100)
    _send(presenter, (), "hello", tokens=500)
    assert model.requests[0].params.max_new_tokens == 100 - len("user: hello")


def test_going_back_finds_the_question() -> None:
    """From an answer or a question, the conversation ends with that question; undo brings it back into the box."""
    assert [back_to_user(_TALK, index) for index in (3, 0)] == [_TALK[:3], _TALK[:1]]
    assert back_to_user((), 0) == ()
    assert _chat()[1].undo(_TALK, 3) == Moved(_TALK[:2], None, "two")


def test_an_edited_question_replaces_what_followed() -> None:
    """The conversation goes on from the new wording; the answer that is replaced may say what the new one will."""
    model, presenter = _chat()
    views = _ask(presenter, "edit", _TALK, 0, "uno")
    assert model.requests[0].predicted == _TALK[1].content
    assert model.requests[0].messages == (Message("user", "uno"),)
    assert [turn.role for turn in views[-1].turns] == ["user", "assistant"]


def test_an_empty_message_changes_nothing() -> None:
    """The conversation stays as it is and nothing is sent."""
    model, presenter = _chat()
    assert _send(presenter, _TALK, "  ")[-1].turns == _TALK
    assert model.answers == []


@pytest.mark.parametrize("action", ["edit", "regenerate", "edit_answer", "go_on"])
def test_only_what_is_sent_leaves_the_box(action: str) -> None:
    """What is typed for the next question stays there when an earlier one is answered anew."""
    _, presenter = _chat()
    turns = (*_TALK[:3], Interrupted("assistant", "2"))
    views = _ask(presenter, action, turns, 3, "other words")
    assert len(views) > 1
    assert not any(view.taken or view.put for view in views)


def test_a_stopped_answer_is_marked_and_can_be_gone_on_with() -> None:
    """Only once it has ended; a whole answer is not marked."""
    model, presenter = _chat()
    whole = _send(presenter, (), "What is AI?")[-1]
    assert (type(whole.turns[-1]), whole.resumable) == (Message, False)

    begun: list[str] = []

    def stop(view: ChatView) -> None:
        if len(view.turns) == 2:
            presenter.answers.stop("ann", view.id)

    views = _send(presenter, (), "slow", tokens=5000, act=stop)
    assert [view.resumable for view in views[:-1]] == [False] * (len(views) - 1)
    assert (type(views[-1].turns[-1]), views[-1].resumable) == (Interrupted, True)
    half = views[-1].turns
    after = _ask(presenter, "go_on", half, act=lambda view: begun.append(view.turns[-1].content), tokens=2)
    assert model.requests[-1].messages[-1].content == half[1].content
    assert after[-1].turns == (half[0], Interrupted("assistant", half[1].content + "An answer"))
    assert all(words.startswith(half[1].content) for words in begun)
    assert after[-1].resumable  # two tokens were all that were allowed


def test_an_answer_goes_on_from_another_beginning() -> None:
    """The model is given the edited text as its own and goes on behind it; what followed is not sent."""
    model, presenter = _chat()
    last = _ask(presenter, "edit_answer", _TALK, 1, "Well, ")[-1]
    assert [message.content for message in model.requests[0].messages] == ["one", "Well, "]
    assert model.requests[0].predicted == "1"
    assert last.turns == (_TALK[0], Message("assistant", "Well, An answer from the script."))
    assert presenter.asked("edit_answer", _TALK, 0, "no answer") == ()
    assert presenter.asked("edit_answer", _TALK, 9, "no turn") == ()


def test_a_conversation_that_is_not_kept_is_there_again_after_a_reload() -> None:
    """For its visitor only, with its figures; one that is kept is found by that."""
    _, presenter = _chat()
    last = _send(presenter, _TALK, "What is AI?")[-1]
    assert f'data-answer="{last.id}"' in last.status
    again = all_views(lambda: presenter.again(Caller("ann", "new tab"), last.id))[-1]
    assert (again.turns, again.status, again.context) == (last.turns, last.status, last.context)
    for caller, name in ((Caller("bob", "tab"), last.id), (Caller("ann", "other tab"), "unknown")):
        assert all_views(lambda caller=caller, name=name: presenter.again(caller, name)) == []  # type: ignore[misc]


def test_what_is_refused_or_empty_loses_nothing_that_is_not_kept() -> None:
    """The page still names its last answer; a document is let go of with the question that was accepted."""
    model, presenter = _chat()
    model.scenes = {**SCENES, "forbidden": Script((), refuse=QueueFull(waiting=9))}
    accepted: list[str] = []
    last = _send(presenter, _TALK, "What is AI?", accepted=lambda: accepted.append("first"))[-1]
    for text in ("forbidden", "  "):
        how = {"shown": last.id, "accepted": lambda text=text: accepted.append(text)}
        refused = _send(presenter, last.turns, text, **how)[-1]
        assert refused.turns == last.turns
        assert (refused.id, f'data-answer="{last.id}"' in refused.status) == (last.id, True)
    assert accepted == ["first"]


def test_a_question_without_an_answer_is_asked_again() -> None:
    """Going on after a crash before the first word adds no second question."""
    model, presenter = _chat()
    turns = (Message("user", "What is AI?"),)
    assert all_views(lambda: presenter.show(ANN, Moved(turns), None))[-1].resumable
    assert len(_ask(presenter, "go_on", turns)[-1].turns) == 2
    assert model.requests[-1].messages == turns


def test_a_broken_answer_can_be_gone_on_with() -> None:
    """Its words stay, marked."""
    _, presenter = _chat()
    last = _send(presenter, (), "broken")[-1]
    assert last.turns[-1] == Interrupted("assistant", "half an answer")
    assert last.resumable


def test_the_mark_stands_outside_of_an_open_code_block() -> None:
    """An answer that ended inside code is closed before the mark; whole answers have none."""
    turns = (Interrupted("assistant", "```py\nx = 1"), Message("assistant", "done"))
    texts = [[part["text"] for part in one["content"]] for one in shown(turns, "\n\nMARK")]
    assert texts == [["```py\nx = 1\n```\n\nMARK"], ["done"]]


def test_a_long_answer_is_shown_in_pieces_and_a_question_in_one() -> None:
    """What the page copies, all pieces joined by line ends, is the answer; a question is edited as a whole."""
    text = "\n\n".join(f"Paragraph {number} <b> " + "x" * 400 for number in range(9))
    question, answer = shown((Message("user", text), Message("assistant", text)))
    assert len(question["content"]) == 1
    assert len(answer["content"]) > 2
    assert as_typed("\n".join(part["text"] for part in answer["content"])) == text


def test_an_answer_that_goes_on_is_shown_where_its_conversation_is_opened(tmp_path: Path) -> None:
    """From its beginning to its end, in the language of the page that opens it; the first tab shows its own."""
    model, settings = ScriptedModel(), Settings(data=str(tmp_path))
    service, history = scripted_service(model), History(settings)
    answers = PageAnswers(service, settings)
    english, chinese = (ChatPresenter(service, answers, history, load_texts(one)) for one in ("en", "zh"))

    async def scene() -> tuple[ChatView, list[ChatView]]:
        form, other, views = ChatForm(lambda: GenerationParams(max_new_tokens=40)), Caller("ann", "other", "ann"), []
        asked = english.asked("send", (), 0, "slow")
        async for last in english.answer(ANN, None, (), asked, form):
            if len(last.turns) == 2 and not views:
                moved = history.last_open("ann")
                assert moved is not None
                views.append(last)
                following = asyncio.create_task(_all(chinese.show(other, moved, None)))
                await asyncio.sleep(0.5)
                assert [view.turns async for view in english.show(ANN, Moved(), None)] == [()]
        return last, await following

    last, found = asyncio.run(scene())
    assert (last.turns, last.running) == ((), False)
    assert found[0].changed
    assert found[-1].turns[-1].content == "".join(f"word{n} " for n in range(40))
    assert "40 个 token" in found[-1].status


async def _all(views: AsyncGenerator[ChatView, None]) -> list[ChatView]:
    return [view async for view in views]
