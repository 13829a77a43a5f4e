"""Compare, Speed and Model: what their presenters show, without components."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatglm_backend.benchmark.quick import QuickItem, wait_until_idle
from chatglm_backend.checkpoint.cache import CacheEntry
from chatglm_backend.checkpoint.known import KNOWN, known_model
from chatglm_backend.core import CancelToken, GenerationParams, PrefillProgress, TokenEvent
from chatglm_backend.errors import ModelInUse
from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.service.keeping import Keeper
from chatglm_backend.service.needs import Needs, Offer
from chatglm_backend.service.report import Findings
from chatglm_backend.serving.ticket import Logged
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.answers import Caller, PageAnswers
from chatglm_backend.ui.compare import CompareView, compare, settings_line
from chatglm_backend.ui.models import ModelsPresenter
from chatglm_backend.ui.permission import may_manage
from chatglm_backend.ui.plots import bar_plot, sparkline
from chatglm_backend.ui.presenter import Presenter, PromptForm
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.speed import SpeedDesk, SpeedPresenter, SpeedView
from chatglm_backend.units import digits, spread
from tests.unit.page_views import shown

TEXTS = load_texts("en")
PLAN = (QuickItem(8, 1, 4), QuickItem(16, 1, 4), QuickItem(8, 2, 4))


def _params(tokens: int, temperature: float = 0.0) -> Callable[[], GenerationParams]:
    return lambda: GenerationParams(max_new_tokens=tokens, temperature=temperature)


def _compare(
    model: ScriptedModel, left: PromptForm, right: PromptForm,
    act: Callable[[PageAnswers, CompareView], object] = lambda *_: None,
) -> list[CompareView]:  # fmt: skip
    service = scripted_service(model)
    answers = PageAnswers(service)
    page = Presenter(service, answers, TEXTS)
    return shown(lambda: compare(page, Caller("me", "tab"), left, right), lambda view: act(answers, view))


def _measure(service: Service, act: Callable[[SpeedPresenter], object] = lambda _: None, **how: Any) -> list[SpeedView]:
    presenter = SpeedPresenter(service, SpeedDesk(), TEXTS, PLAN, **{"runs": 1, **how})
    return shown(lambda: presenter.run("me"), lambda _: act(presenter))


def test_both_answers_get_their_own_settings_and_are_whole() -> None:
    """The two sides differ in what they were asked, and both end."""
    model = ScriptedModel()
    left, right = PromptForm("What is AI?", _params(3), "raw"), PromptForm("What is AI?", _params(64, 0.8))
    last = _compare(model, left, right)[-1]
    asked = {(r.params.max_new_tokens, r.prompt_format, r.params.temperature) for r in model.requests}
    assert asked == {(3, "raw", 0.0), (64, "recipe", 0.8)}
    assert (last.running, last.left.output) == (False, "AI is the")
    assert last.right.output == "AI is the study of machines that learn."


def test_one_stop_ends_both_answers() -> None:
    """Both tickets are cancelled and both texts stay."""
    model = ScriptedModel()

    def stop(answers: PageAnswers, view: CompareView) -> None:
        if "word1" in view.left.output and "word1" in view.right.output:
            answers.stop("me", view.left.id, view.right.id)

    last = _compare(model, PromptForm("slow", _params(2000)), PromptForm("slow", _params(2000)), stop)[-1]
    assert [ticket.cancelled for ticket in model.answers] == [True, True]
    assert not last.running
    assert "Stopped" in last.left.status
    assert "Stopped" in last.right.status


def test_a_bad_value_on_one_side_leaves_the_other_alone() -> None:
    """An error is shown where it belongs."""
    last = _compare(ScriptedModel(), PromptForm("What is AI?", _params(9, -1)), PromptForm("What is AI?"))[-1]
    assert "temperature" in last.left.status
    assert last.right.output.startswith("AI is")


def test_a_side_says_how_it_is_set() -> None:
    """Temperature and limit always, of the rest what is not usual; a number out of bounds is said to be so."""
    form = PromptForm("", lambda: GenerationParams(max_new_tokens=9, top_p=0.5), "raw", "bigdl", "polite")
    line = "Max new tokens 9 · Temperature 0 · Top-p 0.5 · As typed · bigdl · polite"
    assert settings_line(TEXTS, form) == f'<p class="cg-note">{line}</p>'
    assert "temperature" in settings_line(TEXTS, PromptForm("", _params(9, -1)))


def test_comparing_nothing_sends_nothing() -> None:
    """An empty prompt costs nothing."""
    model = ScriptedModel()
    views = _compare(model, PromptForm(" "), PromptForm(" "))
    assert [view.running for view in views] == [False]
    assert model.answers == []


def test_a_speed_test_fills_table_plots_and_download() -> None:
    """One request for each answer of the plan, stop ids ignored, nothing repeated; a row and a bar for all its runs."""
    model = ScriptedModel()
    last = _measure(scripted_service(model), runs=3)[-1]
    assert [request.ignore_stop_ids for request in model.requests] == [True] * 12
    assert not any(request.params.greedy for request in model.requests)  # greedy answers get draft tokens
    assert len({request.prompt for request in model.requests}) == 12
    assert last.table.count("<tr>") == 1 + len(PLAN)
    assert last.plots.count("<svg") == 2
    found = re.search(r"base64,([^\"]+)", last.download)
    assert found is not None
    document = json.loads(base64.b64decode(found.group(1)))
    assert [run["batch"] for run in document["runs"]] == [1, 1, 2] * 3
    assert f"<td>{spread(digits, [run['decode_tok_s'] for run in document['runs'][2::3]])}</td>" in last.table
    assert "the middle of 3 runs" in last.plots
    assert document["model"]["name"] == model.info.name


def test_a_stopped_speed_test_keeps_what_it_has() -> None:
    """The first measurement stays; no further one begins."""
    model = ScriptedModel()

    def stop(presenter: SpeedPresenter) -> None:
        if len(model.requests) == 1:
            presenter.stop("me")

    last = _measure(scripted_service(model), stop)[-1]
    assert (last.running, len(model.requests)) == (False, 1)
    assert "Stopped" in last.status
    assert last.table.count("<tr>") == 2


def test_a_speed_test_without_a_model_says_so() -> None:
    """No model, one sentence."""
    last = _measure(Service())[-1]
    assert "not ready" in last.status
    assert not last.running


def test_only_one_speed_test_runs_at_a_time() -> None:
    """A second one is refused until the first has ended."""
    desk = SpeedDesk()
    first = desk.begin("a")
    assert first is not None
    assert desk.begin("b") is None
    desk.stop("b")
    assert not first.cancelled
    desk.end(first)
    assert desk.begin("b") is not None


def test_a_speed_test_waits_for_other_answers() -> None:
    """It begins only when nothing else runs, and not at all once stopped."""
    running = [2, 1, 0, 0, 0]
    assert wait_until_idle(lambda: running.pop(0), CancelToken())
    stopped = CancelToken()
    stopped.cancel()
    assert not wait_until_idle(lambda: 1, stopped)


class _Busy(Service):
    """Others are answering for the first ``busy_for`` looks."""

    busy_for = 0

    def metrics(self) -> Any:
        self.busy_for -= 1
        return SimpleNamespace(running=int(self.busy_for >= 0), waiting=0, accepted=0)


def _measure_beside_others(busy_for: int, patience_s: float) -> tuple[ScriptedModel, list[SpeedView]]:
    model = ScriptedModel()
    service = _Busy(loader=model, env={})
    service.load()
    service.wait_ready(30)
    service.busy_for = busy_for
    return model, _measure(service, patience_s=patience_s)


def test_a_speed_test_lets_others_finish_first() -> None:
    """While somebody's answer is written nothing is sent, and the page says what it waits for."""
    model, views = _measure_beside_others(busy_for=3, patience_s=30)
    assert "Waiting for other answers" in views[0].status
    assert "Finished" in views[-1].status
    assert len(model.requests) == 4


def test_a_speed_test_gives_way_when_others_never_finish() -> None:
    """It ends by itself, disturbs nobody, and says so."""
    model, views = _measure_beside_others(busy_for=10_000, patience_s=0.3)
    assert model.requests == []
    assert (views[-1].running, "gave way" in views[-1].status) == (False, True)


@pytest.mark.parametrize(
    ("address", "headers", "shared", "allowed"),
    [
        ("203.0.113.5", {}, False, True),
        ("127.0.0.1", {}, True, True),
        ("::1", {}, True, True),
        ("::ffff:127.0.0.1", {}, True, True),
        ("192.168.1.7", {}, True, False),
        ("127.0.0.1", {"x-forwarded-for": "192.168.1.7"}, True, False),
        ("127.0.0.1", {"forwarded": "for=192.168.1.7"}, True, False),
        (None, {}, True, False),
        ("testclient", {}, True, False),
    ],
)
def test_on_a_shared_page_only_this_machine_changes_models(
    address: str | None, headers: dict[str, str], shared: bool, allowed: bool
) -> None:
    """A proxy on this machine does not count as this machine."""
    assert may_manage(address, headers, shared=shared) is allowed


class _Keeper(Keeper):
    """One entry, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.list = [CacheEntry("a-1234", "THUDM/chatglm-6b", "low-bit", Path("x"), 3_900_000_000, "chatglm", True)]
        self.in_use: list[str | None] = []

    def entries(self) -> tuple[CacheEntry, ...]:
        return tuple(self.list)

    def delete(self, name: str, in_use: str | None) -> CacheEntry:  # noqa: ARG002
        self.in_use.append(in_use)
        return self.list.pop()

    def report(self) -> Findings:
        hardware = {
            "cpu": "<b>", "system": "Linux", "architecture": "x86_64", "physical_cores": 2, "logical_cpus": 4,
            "memory_available": 10**9, "memory_total": 2 * 10**9, "plan": {"threads": 2, "reasons": ["two cores"]},
        }  # fmt: skip
        return Findings(hardware=hardware, fixes=["Unset OMP_NUM_THREADS."])

    def needs(self, model: str) -> Needs | None:
        return None if model == "what" else Needs(model, 16 * 10**9, 5 * 10**9, 10**9, 8 * 10**9)


def test_what_is_kept_is_listed_and_deleted() -> None:
    """The list shows the size and the question; deleting names the model in use to the keeper and empties the list."""
    keeper, service = _Keeper(), scripted_service()
    presenter = ModelsPresenter(service, keeper, TEXTS, shared=False)
    assert 'data-confirm="Delete a-1234 (3.90 GB)?' in presenter.kept(allowed=True)
    said = presenter.delete("a-1234", allowed=True)
    assert keeper.in_use == [ScriptedModel().info.name]
    assert "3.90 GB are free again" in said
    assert "No converted" in presenter.kept(allowed=True)


def test_a_visitor_who_may_not_delete_reads_why() -> None:
    """The check is made where the deletion is, not only on the button."""
    keeper = _Keeper()
    presenter = ModelsPresenter(scripted_service(), keeper, TEXTS, shared=True)
    assert "disabled" in presenter.kept(allowed=False)
    assert "shared" in presenter.delete("a-1234", allowed=False)
    assert keeper.in_use == []


def test_needs_and_the_report_are_sentences() -> None:
    """Too little disk is said; an unknown name says nothing; the report escapes what it shows."""
    presenter = ModelsPresenter(scripted_service(), _Keeper(), TEXTS, shared=True)
    assert "too little" in presenter.needs("THUDM/chatglm-6b")
    assert presenter.needs("what") == presenter.needs("") == ""
    report = presenter.report()
    assert "Unset OMP_NUM_THREADS." in report
    assert "<b>" not in report


def test_a_visitor_elsewhere_learns_nothing_of_this_machines_folders() -> None:
    """Neither what a path holds nor where things lie."""
    presenter = ModelsPresenter(scripted_service(), _Keeper(), TEXTS, shared=True)
    assert presenter.needs("THUDM/chatglm-6b", allowed=False) == ""
    assert presenter.report(allowed=False) == presenter.refusal()


def test_the_loaded_model_is_not_deleted(tmp_path: Path) -> None:
    """Its files are mapped; both names of the hub's owner mean it."""
    env = {"HF_HUB_CACHE": str(tmp_path), "CHATGLM_CACHE": str(tmp_path / "c")}
    (tmp_path / "models--THUDM--chatglm-6b" / "blobs").mkdir(parents=True)
    keeper = Keeper(Settings(), env)
    with pytest.raises(ModelInUse):
        keeper.delete("THUDM/chatglm-6b", "zai-org/chatglm-6b")
    assert keeper.delete("THUDM/chatglm-6b", None).kind == "download"
    assert keeper.entries() == ()


def test_needs_count_only_what_is_not_here_yet(tmp_path: Path) -> None:
    """A finished download leaves the conversion to do; an unfinished one counts for nothing yet."""
    env = {"HF_HUB_CACHE": str(tmp_path), "CHATGLM_CACHE": str(tmp_path / "c")}
    keeper = Keeper(Settings(), env)
    before = keeper.needs("THUDM/chatglm2-6b")
    snapshot = tmp_path / "models--THUDM--chatglm2-6b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    half = keeper.needs("THUDM/chatglm2-6b")
    (snapshot / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    after = keeper.needs("THUDM/chatglm2-6b")
    assert before is not None
    assert half is not None
    assert after is not None
    assert half.disk == before.disk
    row = known_model("chatglm2-6b")
    assert row is not None
    assert before.disk - after.disk == row.download_bytes
    assert keeper.needs("chatglm2-6b").disk == keeper.needs("someone/chatglm2-6b-tuned").disk - row.download_bytes  # type: ignore[union-attr]
    assert keeper.needs("some text") is None


@pytest.mark.parametrize(
    ("free_disk", "free_memory", "fit", "tokens"),
    [(30, 30, "full", 131072), (30, 8, "short", 89787), (30, 4, "memory", 6082), (5, 30, "disk", 131072)],
)
def test_what_runs_here_is_told_from_memory_and_disk(free_disk: int, free_memory: int, fit: str, tokens: int) -> None:
    """A long context needs room for its K/V: less room, fewer tokens."""
    needs = Needs("x", 20 * 10**9, 4_709_345_792, free_disk * 10**9, free_memory * 10**9, 3_758_096_384, 131072)
    assert (needs.fit, needs.tokens) == (fit, tokens)
    assert TEXTS.say(needs.hint)


def test_the_models_that_people_can_get_are_listed_with_buttons(tmp_path: Path) -> None:
    """Each with its own; what is here is loaded instead; a visitor who may not load has none that works."""
    snapshot = tmp_path / "models--THUDM--chatglm3-6b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    keeper = Keeper(Settings(), {"HF_HUB_CACHE": str(tmp_path), "CHATGLM_CACHE": str(tmp_path / "c")})
    presenter = ModelsPresenter(scripted_service(), keeper, TEXTS, shared=True)
    listed = presenter.offers(allowed=True)
    assert listed.count("data-load=") == len(KNOWN)
    assert listed.count(">Download</button>") == len(KNOWN) - 1
    assert 'aria-label="Load ChatGLM3-6B">' in listed
    assert "disabled" not in listed
    assert presenter.offers(allowed=False).count('" disabled>') == len(KNOWN)


class _Roomy(Keeper):
    """A machine on which everything runs."""

    def offers(self) -> tuple[Offer, ...]:
        room = {"free_disk": 10**12, "free_memory": 10**12}
        return tuple(replace(one, needs=replace(one.needs, **room)) for one in super().offers())


def test_a_speed_test_of_one_model_tells_how_fast_the_others_would_be(tmp_path: Path) -> None:
    """A rate beside each that runs here, once a known one was measured; a larger one is slower."""
    settings = Settings(cache=str(tmp_path))
    model = ScriptedModel(info=replace(scripted_info(), name="THUDM/chatglm3-6b"))
    service = scripted_service(model, settings)
    presenter = ModelsPresenter(service, _Roomy(settings, {}), TEXTS, shared=False)
    assert "tok/s" not in presenter.offers(allowed=True)
    _measure(service)
    rows = presenter.offers(allowed=True).split("<li>")
    found = [re.search(r"about ([\d.]+) tok/s", row) for row in rows if "<b>GLM-Edge" in row]
    small, medium = (float(match[1]) for match in found if match)
    assert small > medium > 0


def test_a_long_prompt_says_how_long_it_will_go_on() -> None:
    """From what was read so far; what was reused took no time."""
    answer = Answer(clock=lambda: 0.0)
    answer.take([Logged(10.0, PrefillProgress(100, 1000, 100))])
    assert answer.reading_left_s is None
    answer.take([Logged(20.0, PrefillProgress(400, 1000, 100))])
    assert answer.reading_left_s == 20.0


def test_times_between_tokens_are_those_of_their_arrival() -> None:
    """A batch that is shown late does not look like one long pause."""
    answer = Answer(clock=lambda: 9.0)
    answer.take(Logged(at, TokenEvent(i, 5, "x")) for i, at in enumerate((1.0, 1.5, 1.75)))
    assert list(answer.gaps_s) == [0.5, 0.25]


def test_plots_escape_and_name_their_figures() -> None:
    """Screen readers get the numbers, and text never becomes markup."""
    plot = bar_plot("<x>", [("1", (0.25, 0.5, 0.75)), ("2", (1.0, 1.0, 1.0))], "tokens", "s")
    assert "<x>" not in plot
    assert "1: 0.500 (0.250 – 0.750), 2: 1.00" in plot
    assert (plot.count("<rect"), plot.count("cg-spread")) == (2, 1)
    assert sparkline([1.0], "one") == ""
    assert sparkline([1.0, 2.0, 1.0], "three").count(",") == 3
