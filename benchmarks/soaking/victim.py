"""A client in a process of its own, to be killed in the middle of an answer: ``victim PORT TOKEN ORDER``.

The order is JSON: ``{"number": 3, "question": {…}, "functions": {…} or null}``. Prints a line for everything received.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.soaking.endpoint import EndpointClient, follow
from benchmarks.soaking.page import Functions, PageClient, Tab
from benchmarks.soaking.questions import Question
from benchmarks.soaking.records import Record

ROOT = Path(__file__).resolve().parents[2]

__all__ = ["kill_in_the_middle"]


def kill_in_the_middle(client: EndpointClient | PageClient, token: str, question: Question) -> list[Record]:
    """Let another process ask in this client's name, and kill it at some moment, perhaps before it was answered."""
    functions = client.functions if isinstance(client, PageClient) else None
    order = {
        "number": client.number,
        "question": asdict(question),
        "functions": None if functions is None else asdict(functions),
    }
    command = [sys.executable, "-m", "benchmarks.soaking.victim", str(client.port), token, json.dumps(order)]
    record = Record(client.number, "killed" if functions is None else "page killed", "", question, end="left")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        if process.stdout is None:
            raise RuntimeError("a victim has no output")
        first = json.loads(process.stdout.readline())
        record.visitor, record.request_id = first["visitor"], first["request"]
        record.accepted = True if first["request"] else None
        time.sleep(client.random.uniform(0.0, 0.8))
        process.kill()
        process.stdout.read()
    return [record]


def main(port: int, token: str, order: str) -> None:
    """Ask, say once who is asking, and read on until killed."""
    told = json.loads(order)
    number, question = int(told["number"]), Question(**told["question"])

    def say(record: Record) -> bool:
        if len(record.seen) == 1:
            print(json.dumps({"visitor": record.visitor, "request": record.request_id}), flush=True)
        return False

    if told["functions"] is None:
        client = EndpointClient(number, port, token, random.Random())  # noqa: S311
        record = client.record("killed", question)
        follow(record, client.line(), say)
    else:
        page = PageClient(number, port, token, Functions(**told["functions"]), random.Random())  # noqa: S311
        tab = Tab(page)
        record = Record(number, "page killed", tab.session, question)
        tab.press(page.functions.generate, question.fields())
        tab.watch(record, say)
    if not record.seen or record.end not in ("stop", "length"):
        print(json.dumps({"visitor": record.visitor, "request": None}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
