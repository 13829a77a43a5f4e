"""Answers on the page: their phases, their pace, and that nobody computes for a reader who has gone."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing

import pytest

from chatglm_backend.core import FinishReason, GenerationParams, GenerationRequest
from chatglm_backend.errors import MissingFile, QueueFull
from chatglm_backend.service import Service
from chatglm_backend.testing import Script, ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.i18n import LANGUAGES, load_texts
from chatglm_backend.ui.live import LiveAnswers
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView
from chatglm_backend.ui.progress import Answer, Phase
from chatglm_backend.ui.render import answer_status, example_chips, model_card
from chatglm_backend.ui.runner import AnswerRunner


def _request(prompt: str, tokens: int = 5000) -> GenerationRequest:
    return GenerationRequest(
        secrets.token_hex(4), "visitor", prompt=prompt, params=GenerationParams(max_new_tokens=tokens)
    )


def _loaded(**scenes: Script) -> tuple[ScriptedModel, Service]:
    model = ScriptedModel(scenes) if scenes else ScriptedModel()
    return model, scripted_service(model)


def _run(service: Service, prompt: str, tokens: int = 5000) -> tuple[list[Phase], Answer]:
    async def collect() -> tuple[list[Phase], Answer]:
        phases, last = [], Answer()
        async for last in AnswerRunner(service, poll_s=0.01).run("visitor", _request(prompt, tokens)):
            phases.append(last.phase)
        return phases, last

    return asyncio.run(collect())


def _views(service: Service, form: PromptForm) -> list[PromptView]:
    async def collect() -> list[PromptView]:
        presenter = Presenter(service, AnswerRunner(service), load_texts("en"))
        return [view async for view in presenter.generate("visitor", form)]

    return asyncio.run(collect())


def test_pieces_join_to_the_whole_answer() -> None:
    """Nothing is lost or doubled between the events and the page."""
    _, answer = _run(_loaded(story=Script(tuple(f"p{i} " for i in range(50)), delay_s=0.001))[1], "story")
    assert answer.text == "".join(f"p{i} " for i in range(50))
    assert answer.finish_reason is FinishReason.STOP


def test_a_fast_answer_is_drawn_ten_times_a_second_at_most() -> None:
    """A thousand tokens do not become a thousand redraws."""
    phases, answer = _run(_loaded(fast=Script(("x",) * 1000, delay_s=0.0))[1], "fast")
    assert answer.tokens == 1000
    assert len(phases) <= 10 * answer.elapsed_s + 3


def test_the_queue_is_shown_before_the_writing() -> None:
    """Position, reading and writing come in their order."""
    phases, _ = _run(_loaded(wait=Script(("a", "b"), queue=(2, 1), delay_s=0.12))[1], "wait")
    assert sorted(phases, key=list(Phase).index) == phases
    assert Phase.QUEUED in phases


def test_a_request_waits_for_a_loading_model() -> None:
    """Sending early is no mistake: the answer follows the loading."""
    service = Service(loader=ScriptedModel(load_seconds=0.2), env={})
    service.load()
    phases, answer = _run(service, "anything")
    assert phases[0] is Phase.LOADING
    assert answer.text == "An answer from the script."


def test_a_failed_model_is_said_at_once() -> None:
    """The loading error answers every prompt until another model is loaded."""
    error = MissingFile(path="a.bin")
    service = Service(loader=ScriptedModel(load_error=error), env={})
    service.load()
    with pytest.raises(MissingFile):
        service.wait_ready(10)
    phases, answer = _run(service, "anything")
    assert phases == [Phase.FAILED]
    assert answer.error is error


def test_a_refused_request_shows_the_reason() -> None:
    """Submission errors end up in the answer."""
    error = QueueFull(waiting=9)
    _, answer = _run(_loaded(full=Script((), refuse=error))[1], "full")
    assert answer.error is error


def test_an_answer_that_breaks_keeps_its_text() -> None:
    """What was written stays readable beside the error."""
    _, answer = _run(_loaded()[1], "broken")
    assert answer.phase is Phase.FAILED
    assert answer.text == "half an answer"


def test_leaving_the_page_cancels_the_answer() -> None:
    """Closing the stream early ends the work."""
    model, service = _loaded()

    async def leave() -> None:
        async with aclosing(AnswerRunner(service).run("visitor", _request("slow"))) as answers:
            async for answer in answers:
                if answer.tokens:
                    break

    asyncio.run(leave())
    assert model.answers[0].cancelled
    assert model.answers[0].ended.wait(2)


def test_stop_ends_only_ones_own_answer_and_keeps_its_text() -> None:
    """Another visitor's answer goes on."""
    _, service = _loaded(slow=Script(("w ",) * 40, delay_s=0.02))

    async def scene() -> tuple[Answer, Answer]:
        runner = AnswerRunner(service)

        async def follow(session: str) -> Answer:
            last = Answer()
            async for last in runner.run(session, _request("slow")):
                if session == "mine" and last.tokens:
                    runner.stop("mine")
            return last

        mine, other = await asyncio.gather(follow("mine"), follow("theirs"))
        return mine, other

    mine, other = asyncio.run(scene())
    assert mine.finish_reason is FinishReason.CANCELLED
    assert 0 < mine.tokens < 40
    assert (other.finish_reason, other.tokens) == (FinishReason.STOP, 40)


def test_the_exact_prompt_is_shown() -> None:
    """The page shows what was really sent, format included."""
    sent = [view.sent for view in _views(_loaded()[1], PromptForm("What is AI?")) if view.sent]
    assert sent == ["问：What is AI?\n答："]


def test_an_empty_prompt_asks_for_one_and_sends_nothing() -> None:
    """A stray click costs nothing."""
    model, service = _loaded()
    views = _views(service, PromptForm("  \n"))
    assert [view.running for view in views] == [False]
    assert model.answers == []


def test_a_value_out_of_range_is_said_on_the_page() -> None:
    """Bad numbers become a sentence, not a crash."""
    views = _views(_loaded()[1], PromptForm("hi", temperature=-1))
    assert "temperature" in views[-1].status
    assert not views[-1].running


def test_the_number_of_new_tokens_is_obeyed() -> None:
    """The slider's value reaches the request, and the status says that it was the limit."""
    model, service = _loaded()
    views = _views(service, PromptForm("What is AI?", max_new_tokens=3))
    assert model.requests[0].params.max_new_tokens == 3
    assert "Reached the limit of 3 new tokens" in views[-1].status


def test_status_and_examples_escape_what_they_show() -> None:
    """Text from people and errors never becomes markup."""
    texts, answer = load_texts("en"), Answer()
    answer.fail(MissingFile(path="<img src=x>"))
    shown = answer_status(texts, answer, _loaded()[1].status()) + example_chips(texts, ('"><script>x',))
    assert "<img" not in shown
    assert "<script" not in shown


def test_the_demonstration_model_says_what_it_is() -> None:
    """Its size and the way to a real model are on the page."""
    service = scripted_service(ScriptedModel(info=scripted_info(is_demo=True)))
    card = model_card(load_texts("en"), service.status())
    assert "demonstration model of 41 million parameters" in card
    assert "--model THUDM/chatglm-6b" in card


def test_a_cleared_answer_never_comes_back() -> None:
    """Whatever was under way when the page was cleared, the last view is the empty page."""
    model, service = _loaded()

    async def scene() -> PromptView:
        presenter = Presenter(service, AnswerRunner(service), load_texts("en"))
        last = presenter.blank()
        views = presenter.generate("visitor", PromptForm("slow"), "r")
        async for last in presenter.live.begin("visitor", None, views, lambda: presenter.stop("visitor", "r")):
            if "word1" in last.output:
                presenter.live.detach("visitor", presenter.blank())
        return last

    last = asyncio.run(scene())
    assert (last.output, last.running) == ("", False)
    assert model.answers[0].ended.wait(5)


def test_a_prompts_answer_is_taken_up_again() -> None:
    """The same visitor's new page shows text, exact prompt and the rest as it comes."""
    _, service = _loaded(slow=Script(("w ",) * 40, delay_s=0.02))

    async def scene() -> list[PromptView]:
        live: LiveAnswers[PromptView] = LiveAnswers(30)
        english, chinese = (Presenter(service, AnswerRunner(service), load_texts(one), live) for one in LANGUAGES[::-1])
        views = english.generate("s1", PromptForm("slow"), "r")
        async with aclosing(live.begin("s1", "ann", views, lambda: english.stop("s1", "r"))) as watched:
            async for view in watched:
                if view.output:
                    break
        found = [view async for view in live.resume("s2", "ann", lambda view: view.request is not None)]
        return [await chinese.again(found[0]), *map(chinese.follow, found[1:])]

    views = asyncio.run(scene())
    assert views[0].sent == "问：slow\n答："
    assert views[-1].output == "w " * 40
    assert "40 个 token" in views[-1].status
