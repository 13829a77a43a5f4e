"""Several machines on one: network namespaces as hosts, each a node of a real Ray cluster, and what they do together.

    python -m benchmarks.cluster scaling overhead faults product [--machines 4] [--minutes 5]

Linux, as root (it makes a network of its own, and undoes it), with requirements-cluster.txt. ``scaling`` and
``overhead`` have a scripted engine: 80 ms a step, four answers at once; ``faults`` kills, freezes and cuts off machines
under sixteen clients; ``product`` runs the bundled model, or that of ``--model``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatglm_backend.cluster.front import Front
from chatglm_backend.cluster.members import Members
from chatglm_backend.cluster.node import node_command, node_environment
from chatglm_backend.cluster.ports import Link, Roster
from chatglm_backend.cluster.start import require_token
from chatglm_backend.core import Completed, FinishReason, GenerationParams, GenerationRequest, TokenEvent
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.service import Loader, Service, load_model
from chatglm_backend.serving.metrics import Metrics
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel

HEAD = "10.77.0.1:6379"
CLIENTS, TOKENS, STEP_S, PLACES = 16, 40, 0.08, 4
SETTINGS = Settings(history=False, max_running=PLACES, queue_limit=1000, visitor_limit=100)


def script(mark: str) -> Script:
    """An answer that nobody else is given."""
    return Script(tuple(f"{mark}.{n} " for n in range(TOKENS)), delay_s=STEP_S, prefill_units=1)


def scripted() -> ScriptedModel:
    """A model that answers every client with its own mark."""
    return ScriptedModel({f"<{n}>": script(f"m{n}") for n in range(64)})


@dataclass
class Asked:
    """What one request came to. Seconds."""

    mark: str
    text: str = ""
    began: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0
    end: str = ""


def ask(service: Service, client: int, prompt: str = "", tokens: int = 1000) -> Asked:
    """One request, read to its end."""
    found = Asked(f"m{client}")
    name = secrets.token_hex(6)
    params = GenerationParams(max_new_tokens=tokens, temperature=0.0)
    try:
        ticket = service.submit(GenerationRequest(name, f"v{client}", prompt=prompt or f"<{client}>", params=params))
        for event in ticket.events():
            found.last = time.perf_counter()
            if isinstance(event, TokenEvent):
                found.first = found.first or found.last
                found.text += event.text
            elif isinstance(event, Completed):
                found.end = event.finish_reason.value
                found.text += event.text
    except ChatGLMError as error:
        found.end, found.last = error.code, time.perf_counter()
    return found


def crowd(service: Service, clients: int, *, times: int = 0, until: float = 0.0) -> tuple[list[Asked], float]:
    """So many clients at once, each so often or until then; what they got, and how long it took."""
    found: list[Asked] = []

    def client(number: int) -> None:
        done = 0
        while done < times or time.perf_counter() < until:
            found.append(ask(service, number))
            done += 1
            if found[-1].end not in ("stop", "length"):
                time.sleep(0.2)

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, time.perf_counter() - began


class Some:
    """The first so many machines of a roster."""

    def __init__(self, roster: Roster, count: int) -> None:
        self._roster, self._count = roster, count

    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(sorted(self._roster.names(), key=lambda name: int(name.rpartition(".")[2])))[: self._count]

    def open(self, name: str) -> Link:
        """One of them."""
        return self._roster.open(name)


@contextlib.contextmanager
def service_over(count: int, loader: Loader, model: str | None = None) -> Iterator[tuple[Service, Members]]:
    """A front over the first ``count`` machines, all ready; without any the engine in this process."""
    from chatglm_backend.cluster.on_ray import RayRoster

    members = Members(Some(RayRoster(SETTINGS, loader), count))
    front = Front(members)
    service = (
        Service(SETTINGS, loader=front.load, machines=front.machines) if count else Service(SETTINGS, loader=loader)
    )
    members.start()
    service.load(model)
    service.wait_ready(300)
    while sum(one.state == "ready" for one in service.machines()) < count:
        time.sleep(0.1)
    try:
        yield service, members
    finally:
        service.close()
        for one in members.all():
            if one.link is not None:
                one.link.end()
        members.close()


def scaling(most: int) -> dict[str, Any]:
    """Tokens/s of as many clients as there are places, against one machine; and what the front's process spends."""
    rows: dict[str, Any] = {}
    one = 0.0
    for count in (n for n in (1, 2, 4, 8) if n <= most):
        with service_over(count, scripted()) as (service, _):
            crowd(service, count * PLACES, times=1)
            before = time.process_time()
            found, took = crowd(service, count * PLACES, times=4)
            spent = time.process_time() - before
        if {one.end for one in found} != {"stop"}:
            raise SystemExit(f"an answer failed: {Counter(one.end for one in found)}")
        rate = len(found) * TOKENS / took
        one = one or rate
        rows[f"{count} machines"] = {
            "tok/s": round(rate, 1),
            "of linear": round(rate / one / count, 3),
            "front: ms of CPU per token": round(1000 * spent / len(found) / TOKENS, 2),
            "front: share of a core": round(spent / took, 2),
        }
    return rows


def overhead(_: int) -> dict[str, Any]:
    """The first token and the rate of one client after the other, in this process and on one machine."""
    rows = {}
    for count in (0, 1):
        with service_over(count, scripted()) as (service, _members):
            ask(service, 0)
            rows[count] = speeds([ask(service, n) for n in range(12)])
    return compared(*rows.values())


def product(machines: int, model: str | None, tokens: int) -> dict[str, Any]:
    """A model of the product: the same texts, and the same two figures."""
    prompts = ["AI是什么？", "什么是机器学习？", "写一首关于春天的诗。", "What is AI?"] * 3
    rows, texts = [], []
    for count in (0, 1, machines):
        with service_over(count, load_model, model) as (service, _):
            ask(service, 0, prompts[0], tokens)
            found = [ask(service, n, prompt, tokens) for n, prompt in enumerate(prompts)]
            rows.append(speeds(found))
            texts.append([one.text for one in found])
    same = texts[0] == texts[1] == texts[2]
    return {**compared(*rows[:2]), "answers": len(prompts), f"the same texts here, on 1 and on {machines}": same}


def speeds(found: list[Asked]) -> tuple[float, float]:
    """Medians: seconds to the first token, tokens/s behind it."""
    counts = [max(1, one.text.count(" ") if one.mark + "." in one.text else len(one.text)) for one in found]
    rates = [(n - 1) / (one.last - one.first) for n, one in zip(counts, found, strict=True) if one.last > one.first]
    return statistics.median(one.first - one.began for one in found), statistics.median(rates)


def compared(here: tuple[float, float], there: tuple[float, float]) -> dict[str, Any]:
    """Both, and the difference."""
    return {
        "first token here, on a machine (ms)": [round(here[0] * 1000, 1), round(there[0] * 1000, 1)],
        "later by (ms)": round((there[0] - here[0]) * 1000, 1),
        "rate here, on a machine (per s)": [round(here[1], 2), round(there[1], 2)],
        "slower by (%)": round(100 * (1 - there[1] / here[1]), 2),
    }


def faults(machines: int, minutes: float) -> dict[str, Any]:
    """Kill, freeze and cut off one machine after the other while sixteen clients ask; account for every request."""
    did: Counter[str] = Counter()
    with service_over(machines, scripted()) as (service, members):
        until = time.perf_counter() + minutes * 60

        def harm() -> None:
            turn = 0
            while time.perf_counter() < until - 30:
                time.sleep(8)
                one = members.all()[turn % machines]
                kind = ("kill", "freeze", "cut")[turn % 3]
                pid, space = getattr(one.link, "pid", 0), f"m{one.name.rpartition('.')[2]}"
                turn += 1
                if one.state != "ready" or not pid or (kind == "cut" and space == "m1"):
                    continue
                did[kind] += 1
                if kind == "kill":
                    os.kill(pid, signal.SIGKILL)
                elif kind == "freeze":
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(10)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                else:
                    ip("-n", space, "link", "set", "e0", "down")
                    time.sleep(10)
                    ip("-n", space, "link", "set", "e0", "up")

        harming = threading.Thread(target=harm)
        harming.start()
        found, _ = crowd(service, CLIENTS, until=until)
        harming.join()
        time.sleep(2)
        left = service.metrics() or Metrics()
        states = Counter(one.state for one in service.machines())
    whole = {f"m{n}": "".join(script(f"m{n}").pieces) for n in range(CLIENTS)}
    ended = [one for one in found if one.end in (FinishReason.STOP.value, FinishReason.LENGTH.value)]
    broken = [one for one in found if one.end == "engine_failure"]
    return {
        "faults": dict(did),
        "requests": len(found),
        "ended whole": len(ended),
        "of these other than asked alone": sum(one.text != whole[one.mark] for one in ended),
        "interrupted, text kept": len(broken),
        "of these no beginning of their own text": sum(not whole[one.mark].startswith(one.text) for one in broken),
        "of these without any text": sum(not one.text for one in broken),
        "other ends": dict(Counter(one.end for one in found if one not in ended and one not in broken)),
        "longest request (s)": round(max(one.last - one.began for one in found), 1),
        "running and waiting at the end": [left.running, left.waiting],
        "accepted, ended": [left.accepted, left.finished.total() + left.failed.total()],
        "machines at the end": dict(states),
    }


def ip(*words: str) -> None:
    """Change this network."""
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def nodes(count: int) -> Iterator[None]:
    """A cluster of so many machines, the first of which is the head; they end afterwards."""
    from chatglm_backend.cluster.on_ray import RayRoster, connect, disconnect

    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)  # names of this network's own
    ip("link", "set", "lo", "up")
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "br0", "up")
    ip("addr", "add", "10.77.0.1/24", "dev", "br0")
    for n in range(2, count + 1):
        ip("netns", "add", f"m{n}")
        ip("link", "add", f"v{n}", "type", "veth", "peer", "name", "e0", "netns", f"m{n}")
        ip("link", "set", f"v{n}", "master", "br0", "up")
        ip("-n", f"m{n}", "link", "set", "lo", "up")
        ip("-n", f"m{n}", "addr", "add", f"10.77.0.{n}/24", "dev", "e0")
        ip("-n", f"m{n}", "link", "set", "e0", "up")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(node_command(HEAD, head=True), env=node_environment(os.environ), **quiet)]
    try:
        join = [sys.executable, "-m", "chatglm_backend.cluster.start", HEAD]
        connect(HEAD)
        for n in range(2, count + 1):  # one after the other: on few cores none would start in its time
            started.append(subprocess.Popen(["ip", "netns", "exec", f"m{n}", *join], **quiet))
            until = time.monotonic() + 120
            while len(RayRoster(SETTINGS).names()) < n:
                if time.monotonic() > until:
                    raise SystemExit(f"machine {n} did not join")
                time.sleep(0.5)
        yield
        disconnect()
    finally:
        for node in reversed(started):
            node.terminate()
        for node in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(20)
        for n in range(2, count + 1):
            ip("netns", "del", f"m{n}")


def main() -> None:
    """Measure what was asked for, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["scaling", "overhead", "faults", "product"])
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    if os.environ.get("CHATGLM_TEST_OWN_NETWORK") != "1":
        os.environ["CHATGLM_TEST_OWN_NETWORK"] = "1"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.execvp("unshare", ["unshare", "-n", "-m", sys.executable, "-m", "benchmarks.cluster", *sys.argv[1:]])  # noqa: S606
    require_token(os.environ)
    with nodes(asked.machines):
        for what in asked.what:
            more = {"faults": (asked.minutes,), "product": (asked.model, asked.tokens)}.get(what, ())
            found = globals()[what](asked.machines, *more)
            print(json.dumps({what: found}, ensure_ascii=False, indent=1), flush=True)


if __name__ == "__main__":
    main()
