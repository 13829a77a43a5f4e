"""Fine-tunes on the page: what can be chosen, who answers, what a conversation remembers, the Model page's list."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from chatglm_backend.core import AdapterInfo, Completed, GenerationParams, GenerationRequest, LoadProgress, Message
from chatglm_backend.errors import AdapterEmpty
from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.service.loading import LoadedModel, Loading
from chatglm_backend.serving.facts import accepted_facts
from chatglm_backend.serving.metrics import Metrics
from chatglm_backend.settings import Settings
from chatglm_backend.store.transfer import from_json, to_json
from chatglm_backend.testing import ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.adapters import BASE, AdaptersPresenter, adapter_choice
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.chat import ChatForm, ChatPresenter
from chatglm_backend.ui.compare import compare
from chatglm_backend.ui.history import History
from chatglm_backend.ui.presenter import Presenter, PromptForm
from chatglm_backend.ui.render import model_facts
from chatglm_backend.units import size

TEXTS = load_texts("en")
ANN = Caller("ann", "tab", "ann")
ADVERTS = AdapterInfo("adverts", "prefix", 128, 59_000_000, "THUDM/chatglm-6b", "/tunes/adverts", "1")
POLITE = AdapterInfo("polite", "lora", 8, 8_000_000, "", "/tunes/polite", "2")
INFO = replace(scripted_info(), adapters=(ADVERTS, POLITE))
V = TypeVar("V")


def _last(views: AsyncGenerator[V, None]) -> V:
    async def collect() -> V:
        async with aclosing(views) as stream:
            return [view async for view in stream][-1]

    return asyncio.run(collect())


def test_the_first_fine_tune_is_chosen_where_nobody_chose() -> None:
    """Without any there is nothing to choose; a choice that is still offered stays."""
    assert not adapter_choice(TEXTS, scripted_info(), None).visible
    first = adapter_choice(TEXTS, INFO, None)
    assert (first.visible, first.value) == (True, "adverts")
    assert [value for _, value in first.choices] == [BASE, "adverts", "polite"]
    assert adapter_choice(TEXTS, INFO, "polite").value == "polite"
    assert adapter_choice(TEXTS, INFO, BASE).value == BASE


def test_a_conversation_keeps_a_fine_tune_that_is_not_loaded() -> None:
    """It is shown as missing, also where nothing else can be chosen; a new prompt takes the first instead."""
    found = adapter_choice(TEXTS, scripted_info(), "gone", lasting=True)
    assert (found.visible, found.value) == (True, "gone")
    assert ("gone (not loaded)", "gone") in found.choices
    assert adapter_choice(TEXTS, INFO, "gone").value == "adverts"
    assert adapter_choice(TEXTS, None, "gone").value == "gone"


def test_a_choice_becomes_a_name() -> None:
    """Nothing chosen is the first, which while a model is loading is the settings' first."""
    answers = PageAnswers(scripted_service(ScriptedModel(info=INFO)))
    assert [answers.adapter(chosen) for chosen in (None, BASE, "polite")] == ["adverts", "", "polite"]


def test_a_choice_while_a_model_is_loading() -> None:
    """The settings' fine-tunes belong to the settings' model; what was beside the one before does not follow."""
    settings = Settings(model="base", adapter=("style=/tunes/x", "/tunes/y"))
    service = Service(settings, loader=ScriptedModel(), env={})
    early = PageAnswers(service, settings)
    assert [early.adapter(chosen) for chosen in (None, BASE, "y", "gone")] == ["style", "", "y", "style"]
    hold = threading.Event()

    def loader(model: str | None, how: Loading) -> LoadedModel:
        assert hold.wait(30)
        return ScriptedModel()(model, how)

    service = Service(settings, loader=loader, env={})
    service.load("another")
    other = PageAnswers(service, settings)
    assert [other.adapter(chosen) for chosen in (None, BASE, "style")] == ["", "", ""]
    assert other.adapter("style", lasting=True) == "style"
    request = GenerationRequest("1", prompt="What is AI?", adapter=other.adapter("style"))
    ticket = service.submit(request, wait=True)
    hold.set()
    assert isinstance(list(ticket.events())[-1], Completed)
    service.close()


def test_both_sides_of_a_comparison_have_their_own() -> None:
    """The base beside a fine-tune, and the Prompt page's request."""
    model = ScriptedModel(info=INFO)
    service = scripted_service(model)
    answers = PageAnswers(service)
    left, right = PromptForm("What is AI?"), PromptForm("What is AI?", adapter="polite")
    page = Presenter(service, answers, TEXTS)
    _last(compare(page, ANN, left, right))
    _last(page.generate(ANN, PromptForm("What is AI?", adapter="adverts")))
    assert sorted(request.adapter for request in model.requests) == ["", "adverts", "polite"]


def test_a_conversation_remembers_its_fine_tune(tmp_path: Path) -> None:
    """The one that answered last; also through a file and back."""
    history = History(Settings(data=str(tmp_path)))
    model = ScriptedModel(info=INFO)
    service = scripted_service(model)
    presenter = ChatPresenter(service, PageAnswers(service), history, TEXTS)
    place = None
    for adapter in ("", "polite"):
        form = ChatForm(lambda: GenerationParams(max_new_tokens=64), adapter=adapter)
        view = _last(presenter.answer(ANN, place, (), (Message("user", "What is AI?"),), form))
        place = view.place
        moved = history.last_open("ann")
        assert moved is not None
        assert moved.adapter == adapter
        assert _last(presenter.show(ANN, moved, None)).adapter == adapter
    assert [request.adapter for request in model.requests] == ["", "polite"]
    kept = history.store.last_open("ann")
    assert kept is not None
    assert from_json(to_json((kept,)).encode())[0].adapter == "polite"


class _Adding(Service):
    """Loads whatever is not called empty."""

    def add_adapter(self, source: str, progress: Callable[[LoadProgress], None] | None = None) -> AdapterInfo:
        """See the service."""
        for done in (10, 11, 50) if progress is not None else ():
            progress(LoadProgress("download", done, 100 if done != 11 else 110))
        if source == "/tunes/empty":
            raise AdapterEmpty(path=source)
        return replace(POLITE, name=source)

    def remove_adapter(self, name: str) -> AdapterInfo:
        """See the service."""
        return replace(POLITE, name=name)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_model_page_lists_adds_and_removes(language: str) -> None:
    """Kind, size and base of each; an error is its sentence; visitors who may not manage change nothing."""
    texts = load_texts(language)
    service = _Adding(loader=ScriptedModel(info=INFO), env={})
    service.load()
    service.wait_ready(30)
    presenter = AdaptersPresenter(service, texts)
    view = presenter.view()
    assert view.names == ("adverts", "polite")
    shown = (
        texts("adapter.kind.prefix", size=128),
        texts("adapter.kind.lora", size=8),
        size(ADVERTS.nbytes),
        "THUDM/chatglm-6b",
    )
    assert all(text in view.table for text in shown)
    *fetching, added = presenter.add(" style=/x ", allowed=True)
    assert [one.names for one in fetching] == [view.names] * 2
    percents = [texts("load.progress", stage=texts("load.download"), percent=percent) for percent in (10, 50)]
    assert all(percent in one.said for percent, one in zip(percents, fetching, strict=True))
    assert texts("adapter.added", name="style=/x", size=size(POLITE.nbytes)) in added.said
    empty = list(presenter.add("/tunes/empty", allowed=True))[-1].said
    assert texts.say(AdapterEmpty(path="/tunes/empty")) in empty
    assert texts("adapter.removed", name="polite") in presenter.remove("polite", allowed=True).said
    assert not any(one.said for one in presenter.add("style=/x", allowed=False))
    assert not presenter.remove("polite", allowed=False).said
    assert "adverts, polite" in model_facts(texts, INFO)
    assert texts("adapter.kind.prefix", size=16) in model_facts(texts, replace(scripted_info(), prefix_rows=16))


def test_the_log_and_the_counters_name_the_fine_tune() -> None:
    """By name for as many as there may be, so that an endless row of names stays bounded."""
    model = ScriptedModel(info=INFO)
    service = scripted_service(model)
    answers = PageAnswers(service)
    _last(Presenter(service, answers, TEXTS).generate(ANN, PromptForm("What is AI?", adapter="polite")))
    found = service.metrics()
    assert found is not None
    assert found.adapters == {"polite": 1}

    class _Prepared:
        prompt_tokens = 3
        kv_bytes = 0

    assert accepted_facts(model.requests[0], _Prepared(), prompts=False)["adapter"] == "polite"
    metrics = Metrics()
    for number in range(70):
        metrics.taken(f"tune-{number}")
    counted = metrics.snapshot(running=0, waiting=0, kv_reserved_bytes=0).adapters
    assert (len(counted), counted["other"], sum(counted.values())) == (65, 6, 70)
