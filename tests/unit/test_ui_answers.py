"""Answers on the page: their phases, who may read and stop them, and that nobody computes for readers who have gone."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from chatglm_backend.core import FinishReason, GenerationParams, GenerationRequest, Message, PromptFormat
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import EngineFailure, MissingFile, QueueFull
from chatglm_backend.sentences import LANGUAGES, load_texts
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Attached
from chatglm_backend.testing import Script, ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui import answers
from chatglm_backend.ui.answers import Caller, PageAnswer, PageAnswers, Watch
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView
from chatglm_backend.ui.progress import Answer, Phase
from chatglm_backend.ui.render import answer_status, example_chips, model_card
from tests.unit.page_views import shown

T = TypeVar("T")
ANN, ANNS_OTHER_TAB, BOB = Caller("ann", "tab 1"), Caller("ann", "tab 2"), Caller("bob", "tab 3")
SLOW = Script(("w ",) * 40, delay_s=0.02)


def _limit(tokens: int) -> Callable[[], GenerationParams]:
    return lambda: GenerationParams(max_new_tokens=tokens)


@dataclass
class Site:
    """A scripted model, the service, and the answers of its pages."""

    model: ScriptedModel
    service: Service
    answers: PageAnswers

    def presenter(self, language: str = "en") -> Presenter:
        """The Prompt page in a language."""
        return Presenter(self.service, self.answers, load_texts(language))

    async def begin(self, prompt: str, caller: Caller = ANN, tokens: int = 5000) -> Watch:
        """An answer on its way."""
        watch = self.answers.open("prompt", caller)
        params = GenerationParams(max_new_tokens=tokens)
        request = GenerationRequest(watch.answer.id, caller.visitor, prompt, params=params)
        await self.answers.submit(watch.answer, request)
        return watch

    async def take(self, watch: Watch, words: int = 10_000) -> Answer:
        """Follow an answer until so many words are there, or to its end."""
        last = Answer()
        async with aclosing(self.answers.follow(watch)) as grown:
            async for last in grown:
                if last.tokens >= words:
                    break
        return last

    def views(self, form: PromptForm) -> list[PromptView]:
        """All that the Prompt page shows."""
        return shown(lambda: self.presenter().generate(ANN, form))


def _site(grace: float = 30.0, timeout: float = 0.0, **scenes: Script) -> Site:
    model = ScriptedModel(scenes) if scenes else ScriptedModel()
    service = scripted_service(model)
    return Site(model, service, PageAnswers(service, Settings(disconnect_grace=grace, request_timeout=timeout)))


def _run(scene: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await asyncio.wait_for(scene(), 60)

    return asyncio.run(run())


def _answered(site: Site, prompt: str, tokens: int = 5000) -> tuple[list[Phase], Answer]:
    async def collect() -> tuple[list[Phase], Answer]:
        phases, last = [], Answer()
        async for last in site.answers.follow(await site.begin(prompt, tokens=tokens)):
            phases.append(last.phase)
        return phases, last

    return _run(collect)


def test_pieces_join_to_the_whole_answer() -> None:
    """Nothing is lost or doubled between the events and the page."""
    _, answer = _answered(_site(story=Script(tuple(f"p{i} " for i in range(50)), delay_s=0.001)), "story")
    assert answer.text == "".join(f"p{i} " for i in range(50))
    assert answer.finish_reason is FinishReason.STOP


def test_a_fast_answer_is_drawn_ten_times_a_second_at_most() -> None:
    """A thousand tokens do not become a thousand redraws."""
    phases, answer = _answered(_site(fast=Script(("x",) * 1000, delay_s=0.0)), "fast")
    assert answer.tokens == 1000
    assert len(phases) <= 10 * answer.elapsed_s + 3


def test_the_queue_is_shown_before_the_writing() -> None:
    """Position, reading and writing come in their order."""
    phases, _ = _answered(_site(wait=Script(("a", "b"), queue=(2, 1), delay_s=0.12)), "wait")
    assert sorted(phases, key=list(Phase).index) == phases
    assert Phase.QUEUED in phases


def test_a_request_waits_for_a_loading_model() -> None:
    """Sending early is no mistake: the page says what it waits for, and the answer follows the loading."""
    service = Service(loader=ScriptedModel(load_seconds=1.0), env={})
    service.load()
    presenter = Presenter(service, PageAnswers(service), load_texts("en"))
    views = shown(lambda: presenter.generate(ANN, PromptForm("anything")))
    assert 'data-phase="loading"' in views[0].status
    assert views[-1].output == "An answer from the script."


def test_a_failed_model_is_said_at_once() -> None:
    """The loading error answers every prompt until another model is loaded."""
    service = Service(loader=ScriptedModel(load_error=MissingFile(path="a.bin")), env={})
    service.load()
    with pytest.raises(MissingFile):
        service.wait_ready(10)
    presenter = Presenter(service, PageAnswers(service), load_texts("en"))
    last = shown(lambda: presenter.generate(ANN, PromptForm("anything")))[-1]
    assert ("a.bin" in last.status, last.running) == (True, False)


def test_a_refused_request_shows_the_reason() -> None:
    """Submission errors end up in the answer; whatever else breaks is told by its kind."""
    site = _site(full=Script((), refuse=QueueFull(waiting=9)))
    assert "9 requests" in site.views(PromptForm("full"))[-1].status

    def breaks(*_: object, **__: object) -> Any:
        raise LookupError("secret")

    site.answers.service = type("Broken", (), {"submit": breaks, "status": site.service.status})()  # type: ignore[assignment]
    with pytest.raises(EngineFailure, match="LookupError"):
        _run(lambda: site.begin("x"))


def test_an_answer_that_breaks_keeps_its_text() -> None:
    """What was written stays readable beside the error."""
    _, answer = _answered(_site(), "broken")
    assert answer.phase is Phase.FAILED
    assert answer.text == "half an answer"


def test_leaving_the_page_ends_the_answer_after_the_grace() -> None:
    """And not before: it is the ticket that waits."""
    site = _site(grace=0.5, slow=Script(("w ",) * 4000, delay_s=0.01))

    async def leave() -> bool:
        watch = await site.begin("slow")
        await site.take(watch, 1)
        before = site.model.answers[0].cancelled
        await asyncio.to_thread(site.model.answers[0].ended.wait, 20)
        return before

    assert _run(leave) is False
    assert site.model.answers[0].cancelled


def test_the_time_limit_holds_for_pages() -> None:
    """As it does for the endpoint."""
    _, answer = _answered(_site(timeout=0.5, slow=Script(("w ",) * 4000, delay_s=0.01)), "slow")
    assert answer.finish_reason is FinishReason.TIMEOUT


def test_stop_ends_only_ones_own_answer_and_keeps_its_text() -> None:
    """By the request's number, and only for the visitor whose it is."""
    site = _site(slow=SLOW)

    async def scene() -> tuple[Answer, Answer]:
        mine, other = await site.begin("slow", ANN), await site.begin("slow", BOB)
        following = asyncio.create_task(site.take(other))
        await site.take(mine, 1)
        site.answers.stop("ann", mine.answer.id, other.answer.id)
        found = site.answers.resume("prompt", ANN)
        assert found is not None
        return await site.take(found), await following

    mine, other = _run(scene)
    assert mine.finish_reason is FinishReason.CANCELLED
    assert 0 < mine.tokens < 40
    assert (other.finish_reason, other.tokens) == (FinishReason.STOP, 40)


def test_an_answer_that_is_stopped_before_it_began_never_runs() -> None:
    """Stop reaches it though it has no ticket yet."""
    site = _site(slow=SLOW)

    async def scene() -> Answer:
        watch = site.answers.open("prompt", ANN)
        site.answers.stop("ann", watch.answer.id)
        await site.answers.submit(watch.answer, GenerationRequest(watch.answer.id, "ann", "slow"))
        return await site.take(watch)

    assert (_run(scene).finish_reason, site.model.answers[0].made) == (FinishReason.CANCELLED, 0)


def test_nobody_else_gets_an_answer() -> None:
    """Another visitor, another page, another wish, and a page that takes only those left behind find nothing."""
    site = _site(slow=SLOW)

    async def scene() -> list[Watch | None]:
        await site.begin("slow")
        resume = site.answers.resume
        return [
            resume("prompt", BOB),
            resume("chat", ANNS_OTHER_TAB),
            resume("prompt", ANNS_OTHER_TAB, lambda _: False),
            resume("prompt", ANNS_OTHER_TAB, left=True),
        ]

    assert _run(scene) == [None] * 4


def test_two_pages_watch_one_answer() -> None:
    """One turns to something else, the other reads on; when both have turned, it is stopped."""
    site = _site(slow=SLOW)

    async def scene() -> tuple[bool, Answer]:
        first = await site.begin("slow")
        second = site.answers.resume("prompt", ANNS_OTHER_TAB)
        assert second is not None
        site.answers.turn("prompt", ANN)
        stopped = first.answer.stopped
        whole = await site.take(second)
        return stopped, whole

    stopped, whole = _run(scene)
    assert (stopped, whole.tokens) == (False, 40)


def test_what_ended_meanwhile_is_shown_once_more() -> None:
    """The owner comes back a moment after the end and finds it, and then it is forgotten."""
    site = _site(quick=Script(("a", "b"), delay_s=0.0))

    async def scene() -> tuple[str, Watch | None]:
        watch = await site.begin("quick")
        site.answers.leave("tab 1")
        await asyncio.to_thread(site.model.answers[0].ended.wait, 20)
        found = site.answers.resume("prompt", ANNS_OTHER_TAB, left=True)
        assert found is not None
        assert found.answer is watch.answer
        return (await site.take(found)).text, site.answers.resume("prompt", ANN)

    assert _run(scene) == ("ab", None)


def test_what_nobody_comes_back_to_is_forgotten() -> None:
    """No other page comes upon it."""
    site = _site(grace=0.1, quick=Script(("a", "b"), delay_s=0.0))

    async def scene() -> Watch | None:
        watch = await site.begin("quick")
        site.answers.leave("tab 1")
        assert watch.answer.task is not None
        await watch.answer.task
        return site.answers.resume("prompt", ANN)

    assert _run(scene) is None


def test_an_empty_prompt_asks_for_one_and_sends_nothing() -> None:
    """A stray click costs nothing."""
    site = _site()
    assert [view.running for view in site.views(PromptForm("  \n"))] == [False]
    assert site.model.answers == []


def test_a_value_out_of_range_is_said_on_the_page() -> None:
    """Bad numbers become a sentence, not a crash."""
    views = _site().views(PromptForm("hi", lambda: GenerationParams(temperature=-1)))
    assert "temperature" in views[-1].status
    assert not views[-1].running


def test_the_exact_prompt_is_shown_and_the_number_of_new_tokens_obeyed() -> None:
    """What was really sent, format included; the slider's value reaches the request, and is said to be the limit."""
    site = _site()
    views = site.views(PromptForm("What is AI?", _limit(3)))
    assert [view.sent for view in views if view.sent] == ["问：What is AI?\n答："]
    assert site.model.requests[0].params.max_new_tokens == 3
    assert "Reached the limit of 3 new tokens" in views[-1].status


def test_status_and_examples_escape_what_they_show() -> None:
    """Text from people and errors never becomes markup."""
    texts, answer = load_texts("en"), Answer()
    answer.fail(MissingFile(path="<img src=x>"))
    status = answer_status(texts, answer, _site().service.status()) + example_chips(texts, ('"><script>x',))
    assert "<img" not in status
    assert "<script" not in status


def test_the_demonstration_model_says_what_it_is() -> None:
    """Its size and the way to a real model are on the page."""
    service = scripted_service(ScriptedModel(info=scripted_info(is_demo=True)))
    card = model_card(load_texts("en"), service.status())
    assert "not a real ChatGLM" in card
    assert 'data-action="model"' in card


def test_a_cleared_answer_never_comes_back() -> None:
    """Whatever was under way when the page was cleared, the last view is the empty page."""
    site = _site()

    async def scene() -> PromptView:
        presenter = site.presenter()
        last = presenter.blank()
        async for last in presenter.generate(ANN, PromptForm("slow", _limit(5000))):
            if "word1" in last.output:
                await asyncio.to_thread(presenter.clear, ANN)
        return last

    last = _run(scene)
    assert (last.output, last.running) == ("", False)
    assert site.model.answers[0].ended.wait(5)


def test_a_prompts_answer_is_taken_up_again() -> None:
    """The same visitor's new page shows text, exact prompt and the rest as it comes, in its own language."""
    site = _site(slow=SLOW)

    async def scene() -> list[PromptView]:
        english, chinese = (site.presenter(one) for one in LANGUAGES[::-1])
        async with aclosing(english.generate(ANN, PromptForm("slow", _limit(5000)))) as views:
            async for view in views:
                if view.output:
                    break
        return [view async for view in chinese.resume(ANNS_OTHER_TAB)]

    views = _run(scene)
    assert views[0].sent == "问：slow\n答："
    assert views[-1].output == "w " * 40
    assert "40 个 token" in views[-1].status


def test_an_answer_that_has_ended_is_found_by_its_name() -> None:
    """A page that was loaded anew shows it once more, with its figures; no other visitor or page finds it."""
    site = _site()
    last = site.views(PromptForm("What is AI?"))[-1]
    presenter = site.presenter()

    async def scene(caller: Caller, name: str) -> list[PromptView]:
        return [view async for view in presenter.resume(caller, name)]

    again = _run(lambda: scene(ANNS_OTHER_TAB, last.id))[-1]
    assert (again.output, again.status, again.sent) == (last.output, last.status, "问：What is AI?\n答：")
    assert f'data-answer="{last.id}"' in last.status
    for caller, name in ((BOB, last.id), (ANNS_OTHER_TAB, ""), (ANNS_OTHER_TAB, "0123")):
        assert _run(lambda caller=caller, name=name: scene(caller, name)) == []  # type: ignore[misc]
    assert site.answers.known("compare a", ANN, last.id) is None


def test_of_what_has_ended_the_newest_are_kept_within_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one however long it is, and none after its time."""
    site = _site()
    known = [site.views(PromptForm(f"What is AI? {'long ' * 100}"))[-1].id for _ in range(4)]

    def found() -> list[bool]:
        return [site.answers.known("prompt", ANN, name) is not None for name in known]

    assert found() == [True] * 4
    last = site.answers.known("prompt", ANN, known[-1])
    assert last is not None
    assert last.ticket is not None
    monkeypatch.setattr(answers, "_ENDED_BYTES", last.ticket.size * 5 // 2)
    assert found() == [False, False, True, True]
    monkeypatch.setattr(answers, "_ENDED_BYTES", 1000)
    assert found() == [False] * 3 + [True]
    last.ended -= 3601
    assert found() == [False] * 4


def test_of_what_has_ended_the_conversation_counts_with_its_documents() -> None:
    """Each character as two bytes."""
    answer = PageAnswer("name", "chat", "ann", turns=(Message("user", "hello"),))
    assert answer.size == 10
    answer.turns = (*answer.turns, Attached("user", "", documents=(Document("a.txt", ("ab", "c")),)))
    assert answer.size == 16


def test_what_has_ended_goes_in_time_also_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up, opened or ended meanwhile; a later one has its own time."""
    monkeypatch.setattr(answers, "_ENDED_S", 0.2)

    async def scene() -> None:
        site = _site(grace=0.0)
        for _ in range(2):
            watch = await site.begin("AI是什么？")
            await site.take(watch)
            assert watch.answer.task is not None
            await watch.answer.task
            gone = weakref.ref(watch.answer.ticket)
            del watch
            while gone() is not None:
                await asyncio.sleep(0.02)
                gc.collect()

    _run(scene)


def test_an_answer_that_is_kept_does_not_keep_its_request() -> None:
    """What the request carried with it is free once the answer has ended, though the answer is still found."""

    class Carried:
        pass

    async def scene() -> None:
        site, carried = _site(grace=0.0), Carried()
        gone = weakref.ref(carried)
        context = contextvars.copy_context()
        context.run(contextvars.ContextVar[Carried]("carried").set, carried)
        watch = await context.run(asyncio.ensure_future, site.begin("AI是什么？"))
        await site.take(watch)
        assert watch.answer.task is not None
        await watch.answer.task
        assert site.answers.known("prompt", ANN, watch.answer.id) is watch.answer
        del carried, context
        gc.collect()
        assert gone() is None

    _run(scene)


@pytest.mark.parametrize("form", ["recipe", "chat", "raw"])
def test_an_answer_that_reached_its_limit_goes_on_behind_itself(form: PromptFormat) -> None:
    """In every prompt form, more than once; the model is given what it wrote, and the page shows all of it."""
    site = _site()
    half = site.views(PromptForm("What is AI?", _limit(3), form))[-1]
    assert (half.output, half.unfinished) == ("AI is the", True)

    async def scene(name: str) -> list[PromptView]:
        return [view async for view in site.presenter().go_on(ANN, name, _limit(40))]

    more = _run(lambda: scene(half.id))
    assert more[0].output == half.output
    further = _run(lambda: scene(more[-1].id))[-1]
    assert further.output.startswith(more[-1].output)
    assert len(further.output) > len(more[-1].output) > len(half.output)
    asked = site.model.requests[-1]
    if form == "chat":
        assert [one.content for one in asked.messages] == ["What is AI?", more[-1].output]
    else:
        assert (asked.prompt, asked.prompt_format, asked.begun) == ("What is AI?", form, more[-1].output)
    whole = site.views(PromptForm("What is AI?"))[-1]
    assert not whole.unfinished
    assert _run(lambda: scene("unknown")) == []
