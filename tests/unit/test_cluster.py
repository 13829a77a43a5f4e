"""One service over one engine and over several machines: the same suite for both, and what only machines can do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from chatglm_backend.api.metrics import exposition
from chatglm_backend.cluster.members import Pace
from chatglm_backend.cluster.ports import MachineLost
from chatglm_backend.core import (
    Completed,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    ModelState,
    PrefillProgress,
    Queued,
    TokenEvent,
)
from chatglm_backend.errors import (
    ContextLimitExceeded,
    EngineFailure,
    InvalidRequest,
    ModelNotFound,
    NoMachine,
    QueueFull,
    TooManyRequests,
)
from chatglm_backend.sentences import Sentence, load_texts
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.render import machine_table
from tests.unit.cluster_fakes import Host, Hosts, cluster, ray_nodes, wait_for

SLOW = Script(tuple(f"{n} " for n in range(400)), delay_s=0.02)
SCENES = {
    "slow": SLOW,
    "too long": Script((), refuse=ContextLimitExceeded(prompt_tokens=9, limit=8)),
    "broken": Script(("half", " of it", "!"), fail_after=2),
    "unread": Script(("never",), delay_s=5.0),
}
Made = Callable[..., Service]


def ask(name: str, visitor: str = "v", prompt: str = "hello") -> GenerationRequest:
    """A request."""
    return GenerationRequest(name, visitor, prompt=prompt, params=GenerationParams(max_new_tokens=1000))


def scripted(**more: Any) -> ScriptedModel:
    """A model that plays the scenes."""
    return ScriptedModel(dict(SCENES), **more)


def places(ticket: Ticket) -> list[int]:
    """Where it stood in the queue."""
    return [event.position for event in ticket.read(timeout_s=0) if isinstance(event, Queued)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """A Ray cluster, where one is asked for."""
    with ray_nodes():
        yield


@pytest.fixture(params=["embedded", "machines", *(["ray"] if os.environ.get("CHATGLM_TEST_RAY") else [])])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """A maker of loaded services: with the engine in this process, and with one place on each of two machines."""
    with ExitStack() as until_the_end:

        def make(**settings: Any) -> Service:
            if request.param == "ray":
                request.getfixturevalue("nodes")
                from chatglm_backend.cluster.on_ray import RayRoster

                roster = RayRoster(Settings(history=False, max_running=1), scripted())
                return until_the_end.enter_context(cluster(roster, pace=Pace(), **settings))
            if request.param == "machines":
                hosts = until_the_end.enter_context(Hosts())
                for name in ("a", "b"):
                    hosts.add(name, scripted(), max_running=1)
                return until_the_end.enter_context(cluster(hosts, **settings))
            service = scripted_service(scripted(), Settings(history=False, max_running=2, **settings))
            until_the_end.callback(service.close)
            return service

        yield make


def test_an_answer_is_told_from_its_prompt_to_its_end(made: Made) -> None:
    """Progress, tokens in order, and an end with usage and times that fit together."""
    service = made()
    ticket = service.submit(ask("one"))
    events = list(ticket.events())
    assert any(isinstance(event, PrefillProgress) for event in events)
    assert [event.index for event in events if isinstance(event, TokenEvent)] == list(range(6))
    end = events[-1]
    assert isinstance(end, Completed)
    assert (end.finish_reason, end.usage.completion_tokens) == (FinishReason.STOP, 6)
    assert 0 <= end.timing.queue_wait_s <= (end.timing.ttft_s or 0) <= end.timing.total_s
    assert ticket.text == "An answer from the script."
    assert service.preview_prompt(ask("count")).text == "问：hello\n答："
    now = service.metrics()
    assert now is not None
    assert (now.accepted, now.finished["stop"], now.running, now.waiting) == (1, 1, 0, 0)


def test_cancelling_and_time_limits_end_an_answer_with_their_reason(made: Made) -> None:
    """Running or waiting; the text so far stays."""
    service = made(visitor_limit=1)
    running = service.submit(ask("running", prompt="slow"))
    waiting = service.submit(ask("waiting", prompt="slow"))
    wait_for(lambda: running.text)
    waiting.cancel()
    running.cancel()
    late = service.submit(ask("late", "w", "slow"), timeout_s=0.3)
    ends = [list(ticket.events())[-1] for ticket in (running, waiting, late)]
    assert [getattr(end, "finish_reason", None) for end in ends] == [
        FinishReason.CANCELLED, FinishReason.CANCELLED, FinishReason.TIMEOUT,
    ]  # fmt: skip
    assert running.text


def test_the_queue_is_one_fair_and_bounded(made: Made) -> None:
    """Two places in all: those after wait in turn, and nobody has more than half of the line."""
    service = made(queue_limit=4, visitor_limit=2)
    tickets = [service.submit(ask(f"v{n}", "v", "slow")) for n in range(2)]
    wait_for(lambda: all(ticket.text for ticket in tickets))
    tickets += [service.submit(ask("v2")), service.submit(ask("v3")), service.submit(ask("w0", "w"))]
    wait_for(lambda: [places(ticket)[-1:] for ticket in tickets[2:]] == [[1], [3], [2]])
    with pytest.raises(TooManyRequests):
        service.submit(ask("v4"))
    service.submit(ask("x0", "x"))
    with pytest.raises(QueueFull):
        service.submit(ask("y0", "y"))
    tickets[0].cancel()
    assert isinstance(list(tickets[4].events())[-1], Completed)
    assert places(tickets[4]) == sorted(places(tickets[4]), reverse=True)


def test_what_refuses_a_request_refuses_it_at_once(made: Made) -> None:
    """The engine's own reason, when it is submitted; an id in use; an engine that fails in the middle ends it."""
    service = made()
    with pytest.raises(ContextLimitExceeded):
        service.submit(ask("long", prompt="too long"))
    first = service.submit(ask("same", prompt="slow"))
    with pytest.raises(InvalidRequest):
        service.submit(ask("same"))
    first.cancel()
    broken = service.submit(ask("broken", prompt="broken"))
    with pytest.raises(EngineFailure, match="scripted"):
        list(broken.events())
    assert broken.text == "half of it"


def test_an_answer_that_nobody_reads_stops(made: Made) -> None:
    """After the grace period."""
    service = made()
    ticket = service.submit(ask("left", prompt="slow"), disconnect_grace_s=0.0)
    ticket.read()
    wait_for(lambda: ticket.done)
    assert len(ticket.text.split()) < 400


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two machines of two places."""
    with Hosts() as found:
        for name in ("a", "b"):
            found.add(name, scripted(), max_running=2)
        yield found


@pytest.fixture
def service(hosts: Hosts) -> Iterator[Service]:
    """A front over them."""
    with cluster(hosts) as found:
        yield found


def states(service: Service) -> dict[str, str]:
    """The machines' states."""
    return {one.name: one.state for one in service.machines()}


def machine_of(hosts: Hosts, name: str) -> Host:
    """The machine that plays an answer."""

    def found() -> list[Host]:
        return [
            host
            for host in hosts.hosts.values()
            if any(one.request.request_id == name and one.made and not one.ended.is_set() for one in host.model.answers)
        ]

    wait_for(found)
    (host,) = found()
    return host


def test_visitors_stay_on_their_machine_unless_it_is_full(service: Service, hosts: Hosts) -> None:
    """New visitors go where most places are free; their next requests to the machine that knows them."""
    homes = {}
    for visitor in "vwxy":
        ticket = service.submit(ask(visitor, visitor, "slow"))
        homes[visitor] = machine_of(hosts, visitor).name
        ticket.cancel()
        list(ticket.events())
    assert sorted(homes.values()) == ["a", "a", "b", "b"]
    first, second, third = (service.submit(ask(f"v{n}", "v", "slow")) for n in range(3))
    wait_for(lambda: first.text and second.text and third.text)
    found = [machine_of(hosts, f"v{n}").name for n in range(3)]
    assert found[:2] == [homes["v"]] * 2
    assert found[2] != homes["v"]


@pytest.mark.parametrize("how", ["dead", "silent"])
def test_a_machine_that_is_lost_before_the_first_token_is_replaced_once(
    service: Service, hosts: Hosts, how: str
) -> None:
    """Its requests go elsewhere; what had begun keeps its text and ends with a sentence that names the machine."""
    for host in hosts.hosts.values():
        host.model.scenes["unread"] = Script(("never",), delay_s=5.0)  # type: ignore[index]
    begun = service.submit(ask("begun", prompt="slow"))
    host = machine_of(hosts, "begun")
    unread = service.submit(ask("unread", prompt="unread"))
    wait_for(lambda: sum(one.running for one in service.machines()) == 2 and begun.text)
    (other,) = (one for one in hosts.hosts.values() if one is not host)
    other.model.scenes["unread"] = Script(("made", " elsewhere"))  # type: ignore[index]
    if how == "dead":
        host.die()
    else:
        host.silent = True
    with pytest.raises(EngineFailure, match=f"machine {host.name} was lost"):
        list(begun.events())
    assert begun.text.startswith("0 ")
    assert isinstance(list(unread.events())[-1], Completed)
    assert unread.text == "made elsewhere"
    wait_for(lambda: not host.playing())  # a machine that nobody asks stops by itself
    host.silent = False
    wait_for(lambda: set(states(service).values()) == {"ready"})
    assert isinstance(list(service.submit(ask("after")).events())[-1], Completed)


def test_what_a_machine_stopped_as_nobody_asked_was_not_stopped_by_the_visitor(hosts: Hosts) -> None:
    """A front that paused says what was lost, instead of an answer that somebody stopped."""
    with cluster(hosts) as service:
        begun = service.submit(ask("begun", prompt="slow"))
        wait_for(lambda: begun.text)
        host = machine_of(hosts, "begun")
        host.patience_s, host.silent = 60.0, True
        wait_for(lambda: not host.playing())
        host.silent = False
        with pytest.raises(EngineFailure, match=f"machine {host.name} was lost"):
            list(begun.events())


def test_without_machines_the_service_says_so_until_one_is_back(service: Service, hosts: Hosts) -> None:
    """The status has failed, requests are refused with a sentence, and it goes on by itself."""
    for host in hosts.hosts.values():
        host.silent = True
    wait_for(lambda: set(states(service).values()) == {"lost"})
    assert service.status().state is ModelState.FAILED
    assert isinstance(service.status().error, NoMachine)
    with pytest.raises(NoMachine):
        service.submit(ask("nobody"))
    hosts.hosts["a"].silent = False
    wait_for(lambda: service.status().state is ModelState.READY)
    assert isinstance(list(service.submit(ask("again")).events())[-1], Completed)


def test_a_machine_joins_while_others_answer_and_one_with_other_weights_does_not(
    service: Service, hosts: Hosts
) -> None:
    """The waiting start on the new one; other weights are refused by the machine's name."""
    tickets = [service.submit(ask(f"r{n}", f"v{n}", "slow")) for n in range(6)]
    wait_for(lambda: sum(bool(ticket.text) for ticket in tickets) == 4)
    hosts.add("c", scripted(), max_running=2)
    wait_for(lambda: all(ticket.text for ticket in tickets))
    assert machine_of(hosts, "r5").name == "c"
    other = scripted()
    other.info = scripted_info(is_demo=True)
    hosts.add("d", other, max_running=2)
    wait_for(lambda: states(service).get("d") == "refused")
    assert " and d whose copy" in str(next(one.why for one in service.machines() if one.name == "d"))
    for ticket in tickets:
        ticket.cancel()


def test_another_model_is_rolled_through(service: Service, hosts: Hosts) -> None:
    """One machine changes while the other answers; what runs ends with the old model."""
    tickets = [service.submit(ask(f"r{n}", f"v{n}", "slow")) for n in range(2)]
    wait_for(lambda: all(ticket.text for ticket in tickets))
    hosts.hosts["a"].model.load_error = hosts.hosts["b"].model.load_error = ModelNotFound(path="/nowhere")
    service.load("nowhere")
    for ticket in tickets:
        ticket.cancel()
    wait_for(lambda: isinstance(service.status().error, ModelNotFound))
    assert service.status().state is ModelState.READY
    hosts.hosts["a"].model.load_error = hosts.hosts["b"].model.load_error = None
    wait_for(lambda: set(states(service).values()) == {"ready"})
    for host in hosts.hosts.values():
        host.model.load_seconds = 0.3
    service.load("other")
    during = 0
    while service.status().state is ModelState.LOADING:
        status = service.status()
        assert status.answers or status.state is ModelState.READY
        assert isinstance(list(service.submit(ask(f"during {during}"), wait=True).events())[-1], Completed)
        during += 1
    assert during
    service.wait_ready(10)
    wait_for(lambda: set(states(service).values()) == {"ready"})
    assert [host.model.loaded[-1] for host in hosts.hosts.values()] == ["other", "other"]


def states_and_models(told: str) -> dict[str, dict[str, str]]:
    """What metrics tell in labels, by machine."""
    found = re.findall(r"^chatglm_machine_info{(.*)} 1.0$", told, re.MULTILINE)
    labels: list[dict[str, str]] = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in found]
    return {one["machine"]: one for one in labels}


def test_why_a_machine_cannot_start_is_shown() -> None:
    """In its row, while the others answer."""

    class Broken(Hosts):
        def open(self, name: str) -> Host:
            if name == "b":
                raise MachineLost(gone=True, why=Sentence("cluster.slow_engine"))
            return super().open(name)

    with Broken() as hosts:
        for name in ("a", "b"):
            hosts.add(name, scripted(), max_running=1)
        with cluster(hosts, count=1) as service:
            wait_for(lambda: states(service) == {"a": "ready", "b": "lost"})
            assert "did not start in time" in machine_table(load_texts("en"), service.machines())


def test_page_and_metrics_show_each_machine(service: Service, hosts: Hosts) -> None:
    """State, answers, speed, model and hash; one that does not answer, too."""
    list(service.submit(ask("one", prompt="two words")).events())
    hosts.hosts["b"].silent = True
    wait_for(lambda: states(service)["b"] == "lost")
    shown = machine_table(load_texts("en"), service.machines())
    assert shown.count("<tr>") == 3
    assert "does not answer" in shown
    assert "0 / 2" in shown
    told = exposition(service.metrics(), ready=True, machines=service.machines())[0].decode()
    assert 'chatglm_machine_ready{machine="a"} 1.0' in told
    assert 'chatglm_machine_ready{machine="b"} 0.0' in told
    info = states_and_models(told)
    assert {name: one["state"] for name, one in info.items()} == {"a": "ready", "b": "lost"}
    assert info["a"]["model"] == scripted_info().name
    assert info["a"]["hash"] == scripted_info().identity
    assert "chatglm_machine" not in exposition(service.metrics(), ready=True)[0].decode()
    assert machine_table(load_texts("zh"), ()) == ""
