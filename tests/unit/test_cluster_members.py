"""Machines that differ, refuse, lose what was sent to them, or have no head any more."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import pytest

from chatglm_backend.cluster.members import Members
from chatglm_backend.cluster.node import Node, wait_for_end
from chatglm_backend.cluster.replica import Replica
from chatglm_backend.core import Completed, FinishReason, GenerationParams, GenerationRequest, ModelState
from chatglm_backend.errors import (
    AdapterError,
    ContextLimitExceeded,
    EngineFailure,
    ModelNotReady,
    NoMachine,
    QueueFull,
    UnknownAdapter,
)
from chatglm_backend.sentences import Sentence, load_texts
from chatglm_backend.service import LoadedModel, Loader, Service
from chatglm_backend.service.loading import Loading
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel, scripted_info
from chatglm_backend.ui.render import machine_table
from tests.unit.cluster_fakes import QUICK, SHORT, Hosts, Tuned, cluster, wait_for

SLOW = Script(tuple(f"{n} " for n in range(400)), delay_s=0.02)


def ask(name: str, prompt: str = "hello") -> GenerationRequest:
    """A request of a visitor of its own."""
    return GenerationRequest(name, name, prompt=prompt, params=GenerationParams(max_new_tokens=1000))


def states(service: Service) -> dict[str, str]:
    """The machines' states."""
    return {one.name: one.state for one in service.machines()}


def model(**scenes: Script) -> ScriptedModel:
    """A scripted model with a slow answer."""
    return ScriptedModel({"slow": SLOW, **scenes})


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """No machines yet."""
    with Hosts() as found:
        yield found


def test_a_loading_that_is_superseded_at_its_last_moment_ends_no_answer(hosts: Hosts) -> None:
    """All machines have its model by then; the one wanted next comes, and the worker is the same all along."""
    for name in ("a", "b"):
        hosts.add(name, model(), max_running=2)

    def wrap(load: Loader) -> Loader:
        def loading(name: str | None, how: Loading) -> LoadedModel:
            found = load(name, how)
            if name == "second":
                service.load("third")
            return found

        return loading

    with cluster(hosts, wrap=wrap) as service:
        waiting = service.submit(ask("waiting", "slow"))
        wait_for(lambda: waiting.text)
        service.load("second")
        wait_for(lambda: [host.model.loaded[-1] for host in hosts.hosts.values()].count("second"))
        waiting.cancel()
        list(waiting.events())
        wait_for(lambda: [host.model.loaded[-1] for host in hosts.hosts.values()] == ["third", "third"])
        service.wait_ready(10)
        wait_for(lambda: set(states(service).values()) == {"ready"})
        now = service.metrics()
        assert now is not None
        assert now.accepted == 1  # of the worker that was there before
        assert isinstance(list(service.submit(ask("after")).events())[-1], Completed)


def test_changed_weights_under_the_same_name_are_loaded_anew(hosts: Hosts) -> None:
    """The first machine that has them is not refused for what it had before; one that keeps the old ones is."""
    for name in ("a", "b", "c"):
        hosts.add(name, model())
    with cluster(hosts, 3) as service:
        for name in ("a", "b"):
            hosts.hosts[name].model.info = replace(scripted_info(), identity="new")
        hosts.hosts["c"].model.info = replace(scripted_info(), identity="old")
        wait_for(lambda: set(states(service).values()) == {"ready"})
        service.load("scripted")
        assert service.wait_ready(10).identity == "new"
        wait_for(lambda: states(service) == {"a": "ready", "b": "ready", "c": "refused"})


def test_a_fine_tune_is_on_every_machine_and_on_those_that_join(hosts: Hosts) -> None:
    """Also where one joins while it is being added, or two are added at once."""
    joined = threading.Event()

    def before() -> None:
        if "c" not in hosts.hosts:
            hosts.add("c", Tuned(files=files))
        joined.wait(0.5)

    files = {"/one": "1", "/two": "2"}
    for name in ("a", "b"):
        hosts.add(name, Tuned(files=files))
    hosts.hosts["a"].model.before = before  # type: ignore[attr-defined]

    def have() -> list[list[str]]:
        return [list(host.model.tunes.have) for host in hosts.hosts.values()]  # type: ignore[attr-defined]

    with cluster(hosts) as service:
        adding = [threading.Thread(target=service.add_adapter, args=(f"{n}=/{n}",)) for n in ("one", "two")]
        for thread in adding:
            thread.start()
        wait_for(lambda: states(service).get("c") == "ready")
        joined.set()
        for thread in adding:
            thread.join(10)
        wait_for(lambda: [sorted(found) for found in have()] == [["one", "two"]] * 3)
        wait_for(lambda: set(states(service).values()) == {"ready"})
        assert sorted(service.adapter_names()) == ["one", "two"]
        service.remove_adapter("one")
        assert have() == [["two"]] * 3
        hosts.add("d", Tuned(files=files))
        hosts.add("e", Tuned(files={"/two": "other"}))
        wait_for(lambda: (states(service).get("d"), states(service).get("e")) == ("ready", "refused"))
        assert have()[3] == ["two"]
        assert "on e, /two for two differs" in str(next(one.why for one in service.machines() if one.name == "e"))


def test_a_fine_tune_that_differs_on_one_machine_is_offered_on_none(hosts: Hosts) -> None:
    """The refusal names the machine; one of the same name but other content is replaced where it joins."""
    for name, held in (("a", "1"), ("b", "other")):
        hosts.add(name, Tuned(files={"/one": held}))
    with cluster(hosts) as service:
        with pytest.raises(AdapterError, match="/one for one differs"):
            service.add_adapter("one=/one")
        assert service.adapter_names() == ()
        wait_for(lambda: not any(host.model.tunes.have for host in hosts.hosts.values()))  # type: ignore[attr-defined]
        hosts.hosts["b"].model.files["/one"] = "1"  # type: ignore[attr-defined]
        service.add_adapter("one=/one")
        hosts.hosts["b"].silent = True
        wait_for(lambda: states(service)["b"] == "lost")
        tunes = hosts.hosts["b"].model.tunes  # type: ignore[attr-defined]
        tunes.have["one"] = replace(tunes.have["one"], identity="other")
        hosts.hosts["b"].silent = False
        wait_for(lambda: states(service)["b"] == "ready")
        assert tunes.have["one"].identity == "1"


def test_a_fine_tune_whose_adding_nobody_heard_of_can_be_added_again_and_removed(hosts: Hosts) -> None:
    """Also where one machine has not got what the others have."""
    for name in ("a", "b"):
        hosts.add(name, Tuned(files={"/one": "1"}))
    with cluster(hosts) as service:
        host = hosts.hosts["b"]
        host.deaf.add("add_adapter")
        with pytest.raises(NoMachine):
            service.add_adapter("one=/one")
        host.deaf.clear()
        wait_for(lambda: not any(one.model.tunes.have for one in hosts.hosts.values()))  # type: ignore[attr-defined]
        service.add_adapter("one=/one")
        host.model.tunes.have.clear()  # type: ignore[attr-defined]
        service.remove_adapter("one")
        assert service.adapter_names() == ()
        wait_for(lambda: not any(one.model.tunes.have for one in hosts.hosts.values()))  # type: ignore[attr-defined]
        with pytest.raises(UnknownAdapter):
            service.remove_adapter("one")
        assert set(states(service).values()) == {"ready"}


def test_while_a_fine_tune_is_fetched_machines_come_back_and_another_model_is_loaded(hosts: Hosts) -> None:
    """Also on a machine that joins meanwhile; the fine-tune, of a model that is gone by then, is refused."""
    refused: list[Exception] = []
    fetched = threading.Event()

    def add() -> None:
        try:
            service.add_adapter("one=/one")
        except ModelNotReady as error:
            refused.append(error)

    for name in ("a", "b"):
        hosts.add(name, Tuned(files={"/one": "1"}))
    with cluster(hosts) as service:
        hosts.hosts["a"].model.before = lambda: fetched.wait(120)  # type: ignore[attr-defined]
        adding = threading.Thread(target=add)
        adding.start()
        hosts.hosts["b"].silent = True
        wait_for(lambda: states(service)["b"] == "lost")
        hosts.hosts["b"].silent = False
        wait_for(lambda: states(service)["b"] == "ready")
        service.load("other")
        hosts.add("c", Tuned())
        service.wait_ready(60)
        wait_for(lambda: states(service) == dict.fromkeys("abc", "ready"))
        assert [host.model.loaded[-1] for host in hosts.hosts.values()] == ["other"] * 3
        fetched.set()
        adding.join(60)
        assert len(refused) == 1
        assert service.adapter_names() == ()


def test_a_loading_that_is_cancelled_stops_on_the_machine_and_begins_on_no_other(hosts: Hosts) -> None:
    """Whenever that comes; what each machine says fits the page, and the next loading is as any."""
    hosts.add("a", model(), drain_seconds=0.1)
    with cluster(hosts, 1) as service:
        begun = service.submit(ask("begun", "slow"))
        wait_for(lambda: begun.text)
        hosts.hosts["a"].model.load_seconds = 0.5
        service.load("other")
        service.cancel_load()
        wait_for(lambda: service.status().state is ModelState.NONE)
        hosts.add("b", model())
        wait_for(lambda: states(service) == {"a": "failed", "b": "failed"})
        assert hosts.hosts["b"].model.loaded == []
        assert all("load the model again" in str(one.why) for one in service.machines())
        begun.cancel()
        service.load("third")
        service.wait_ready(10)
        wait_for(lambda: set(states(service).values()) == {"ready"})
        assert [host.model.loaded[-1] for host in hosts.hosts.values()] == ["third"] * 2


def test_an_answer_that_the_change_of_the_model_cuts_short_was_stopped(hosts: Hosts) -> None:
    """As with one engine; no machine was lost."""
    for name in ("a", "b"):
        hosts.add(name, model(), drain_seconds=0.1)
    with cluster(hosts) as service:
        begun = [service.submit(ask(f"r{n}", "slow")) for n in range(2)]
        wait_for(lambda: all(one.text for one in begun))
        service.load("other")
        ends = [list(one.events())[-1] for one in begun]
        assert [getattr(end, "finish_reason", None) for end in ends] == [FinishReason.CANCELLED] * 2


def test_a_machine_whose_engine_failed_is_passed_over_and_says_what_to_do(hosts: Hosts) -> None:
    """What it had begun fails; others answer the rest."""

    @dataclass(slots=True)
    class Failing(ScriptedModel):
        fails: bool = False

        def step(self) -> Any:
            if self.fails:
                raise RuntimeError
            return ScriptedModel.step(self)

    hosts.add("a", Failing({"slow": SLOW}))
    hosts.add("b", model())
    with cluster(hosts) as service:
        begun = [service.submit(ask(f"r{n}", "slow")) for n in range(2)]
        wait_for(lambda: all(one.text for one in begun))
        hosts.hosts["a"].model.fails = True  # type: ignore[attr-defined]
        wait_for(lambda: any(one.done for one in begun))
        for n in range(4):
            assert isinstance(list(service.submit(ask(f"q{n}")).events())[-1], Completed)
        wait_for(lambda: states(service) == {"a": "failed", "b": "ready"})
        assert "load the model again" in str(service.machines()[0].why)


def test_a_long_prompt_goes_to_no_machine_that_cannot_read_it(hosts: Hosts) -> None:
    """Where one with a smaller context joins while it waits."""
    hosts.add("a", model(middling=Script(("ok",), prompt_tokens=150)), max_running=1)
    with cluster(hosts, 1) as service:
        begun = service.submit(ask("begun", "slow"))
        wait_for(lambda: begun.text)
        waiting = service.submit(ask("waiting", "middling"))
        refused = Script((), refuse=ContextLimitExceeded(prompt_tokens=150, limit=100))
        small = model(middling=refused)
        small.info = replace(scripted_info(), context_limit=100)
        hosts.add("b", small, max_running=1)
        wait_for(lambda: states(service).get("b") == "ready")
        begun.cancel()
        assert isinstance(list(waiting.events())[-1], Completed)


@pytest.mark.parametrize("late", [False, True])
def test_what_full_machines_refuse_goes_on_to_the_next_until_all_have(hosts: Hosts, late: bool) -> None:
    """Whether they refuse it when it is measured, or when it comes to them."""
    refusing = {} if late else {"hello": Script((), refuse=QueueFull(waiting=9))}
    for name in ("a", "b", "c"):
        hosts.add(name, model(**refusing), queue_limit=0 if late else 64)
    hosts.add("d", model())
    with cluster(hosts, 4) as service:
        for n in range(4):
            assert isinstance(list(service.submit(ask(f"r{n}")).events())[-1], Completed)
        hosts.hosts["d"].silent = True
        wait_for(lambda: states(service)["d"] == "lost")
        with pytest.raises(QueueFull):
            list(service.submit(ask("refused")).events())


def test_what_never_came_to_a_machine_is_noticed(hosts: Hosts) -> None:
    """It goes to another one, once; then it is answered with a sentence."""
    for name in ("a", "b", "c"):
        hosts.add(name, model()).drops.add("submit")
    hosts.hosts["c"].drops.clear()
    with cluster(hosts, 3, SHORT) as service:
        hosts.hosts["c"].silent = True
        wait_for(lambda: states(service)["c"] == "lost")
        with pytest.raises(NoMachine):
            list(service.submit(ask("dropped")).events())
        hosts.hosts["c"].silent = False
        hosts.hosts["b"].silent = True
        wait_for(lambda: states(service) == {"a": "ready", "b": "lost", "c": "ready"})
        found = [service.submit(ask(f"r{n}")) for n in range(2)]
        assert all(isinstance(list(one.events())[-1], Completed) for one in found)


def test_the_page_has_the_smallest_context_and_what_machines_say(hosts: Hosts) -> None:
    """A prompt that does not fit every machine is refused by all."""
    hosts.add("a", Tuned({"middling": Script(("ok",), prompt_tokens=150)}))
    little = Sentence("note.context_less", tokens=100, most=2048)
    hosts.add("b", Tuned(info=replace(scripted_info(), context_limit=100), said=(little,)))
    with cluster(hosts) as service:
        info = service.status().info
        assert info is not None
        assert info.context_limit == 100
        for name in ("r1", "r2"):
            with pytest.raises(ContextLimitExceeded, match="100"):
                service.submit(ask(name, "middling"))
        for language in ("zh", "en"):
            texts = load_texts(language)
            assert escape(texts.say(little)) in machine_table(texts, service.machines())
        hosts.hosts["b"].silent = True
        wait_for(lambda: states(service)["b"] == "lost")
        info = service.status().info
        assert info is not None
        assert info.context_limit == 2048
        assert isinstance(list(service.submit(ask("fits", "middling")).events())[-1], Completed)


def test_without_the_head_all_answers_end_at_once(hosts: Hosts) -> None:
    """With their text and a sentence, and the engines are told to stop; what waits, too."""
    for name in ("a", "b"):
        hosts.add(name, model(), max_running=1)
    members = Members(hosts, QUICK)
    with cluster(hosts, members=members) as service:
        running = [service.submit(ask(f"r{n}", "slow")) for n in range(2)]
        wait_for(lambda: all(one.text for one in running))
        waiting = service.submit(ask("waiting"))
        members.give_up()
        wait_for(lambda: waiting.done)
        with pytest.raises(NoMachine):
            list(waiting.events())
        for one in running:
            with pytest.raises(EngineFailure, match="was lost"):
                list(one.events())
            assert one.text
        wait_for(lambda: not any(host.playing() for host in hosts.hosts.values()))
        assert service.status().state is ModelState.FAILED
        assert isinstance(service.status().error, NoMachine)


def test_nobody_waits_for_machines_that_stay_lost(hosts: Hosts) -> None:
    """What waits has a while, in which they may come back."""
    hosts.add("a", model(), max_running=1)
    with cluster(hosts, 1, replace(QUICK, gone_s=0.2)) as service:
        running = service.submit(ask("running", "slow"))
        wait_for(lambda: running.text)
        waiting = service.submit(ask("waiting"))
        hosts.hosts["a"].silent = True
        wait_for(lambda: waiting.done)
        with pytest.raises(NoMachine):
            list(waiting.events())


def test_machines_are_given_no_more_than_their_places_after_one_is_lost(hosts: Hosts) -> None:
    """The places of its answers that went elsewhere count no more."""
    for name in ("a", "b"):
        hosts.add(name, model(unread=Script(("never",), delay_s=9.0)), max_running=2)
    with cluster(hosts) as service:
        for n in range(4):
            service.submit(ask(f"r{n}", "unread"))
        wait_for(lambda: sum(one.running for one in service.machines()) == 4)
        hosts.hosts["a"].silent = True
        wait_for(lambda: [one.running for one in service.machines()] == [0, 4])
        assert service._loaded is not None
        worker = service._loaded.worker
        wait_for(lambda: worker.options.max_running == 2, 1)


def test_what_comes_to_a_machine_too_late_is_stopped_there(hosts: Hosts) -> None:
    """Another one answers it by then."""
    for name in ("a", "b"):
        hosts.add(name, model())
    with cluster(hosts, pace=SHORT) as service:
        late: list[tuple[object, ...]] = []
        host, send = hosts.hosts["a"], hosts.hosts["a"].send
        host.send = lambda method, *args: late.append(args) if method == "submit" else send(method, *args)  # type: ignore[method-assign]
        asked = [service.submit(ask(f"r{n}", "slow")) for n in range(2)]
        wait_for(lambda: all(one.text for one in asked))
        for args in late:
            send("submit", *args)
        wait_for(lambda: any(one.ended.is_set() for one in host.model.answers))
        assert all(not one.done for one in asked)


def test_an_engine_has_one_model_and_hears_an_early_cancel() -> None:
    """The old model is given up before the next is loaded; a cancel may come before the ticket is made."""
    scripted, seen = model(), []

    def load(name: str | None, how: Loading) -> LoadedModel:
        seen.append([one() for one in workers])
        loaded = scripted(name, how)
        workers.append(weakref.ref(loaded.worker))
        return loaded

    async def ready(replica: Replica, number: int) -> None:
        await replica.load(None, number)
        while (await replica.poll("s")).status.state is not ModelState.READY:
            pass

    async def play() -> None:
        replica = Replica(Settings(history=False), loader=load, environ={})
        await replica.attach("s")
        await ready(replica, 1)
        await replica.submit("s", ask("early", "slow"))
        await replica.cancel("early", FinishReason.TIMEOUT)
        told: list[tuple[str, object]] = []
        while not any(isinstance(event, Completed) for _, event in told):
            told += (await replica.poll("s")).events
        assert [event.finish_reason for _, event in told if isinstance(event, Completed)] == [FinishReason.TIMEOUT]
        await ready(replica, 2)
        await replica.close()

    workers: list[weakref.ref[object]] = []
    asyncio.run(play())
    assert seen == [[], [None]]


def test_a_node_is_ended_when_its_head_refuses() -> None:
    """Ray itself would wait for it for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
    node = Node([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        wait_for_end(node, address, look_s=0.01)
        assert node.running
    finally:
        node.end()
    assert not node.running
    wait_for_end(node, address)
