"""Log lines: what they say, and what they leave out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from chatglm_backend.access.request_log import RequestLog
from chatglm_backend.logs import catch_prints, start_logging
from chatglm_backend.settings import Settings


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Give the loggers back as they were."""
    root, ours = logging.getLogger(), logging.getLogger("chatglm_backend")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:], _, _ = before
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(capture=False)


def logged(work: Any, **settings: Any) -> str:
    """Everything written while ``work`` runs."""
    out = io.StringIO()
    say = start_logging(Settings(**settings), out)
    work(logging.getLogger("chatglm_backend.somewhere"), say)
    return out.getvalue()


def fail(log: logging.Logger, _: Any) -> None:
    """Log an exception whose message quotes a prompt."""
    try:
        raise ValueError("a secret prompt")
    except ValueError:
        log.exception("it failed", extra={"facts": {"request": "r1"}})


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_logged_by_type_and_place(form: str) -> None:
    """Not by its message, which may quote what somebody wrote."""
    found = logged(fail, log_format=form)
    assert "ValueError" in found
    assert "test_logs.py" in found
    assert "r1" in found
    assert "secret" not in found
    assert "secret" in logged(fail, log_format=form, log_prompts=True)


def print_things(_: logging.Logger, __: Any) -> None:
    """As Gradio does with exceptions, asyncio with forgotten tasks, and packages with warnings and chatter."""
    with catch_prints(Settings()):
        try:
            raise ValueError("a secret prompt")
        except ValueError:
            traceback.print_exc()
        print("a secret answer")  # noqa: T201
        thread = threading.Thread(target=lambda: int("a secret number"))
        thread.start()
        thread.join()
    warnings.warn("a secret value", UserWarning, stacklevel=1)
    forgotten = "Task exception was never retrieved\nfuture: <Task exception=ValueError('a secret task')>"
    logging.getLogger("asyncio").error(forgotten)
    try:
        raise RuntimeError("a secret reason")
    except RuntimeError:
        logging.getLogger("a.server").error(traceback.format_exc())  # as uvicorn tells a failed start


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_other_packages_print_or_warn_of_quotes_nobody(form: str) -> None:
    """It is told that and where it was, each exception once, and the streams are as before."""
    before = sys.stdout, sys.stderr, threading.excepthook
    found = logged(print_things, log_format=form)
    assert (sys.stdout, sys.stderr, threading.excepthook) == before
    assert "secret" not in found
    for told in (
        "an exception was printed",
        "RuntimeError; File",
        "something was printed",
        "a thread failed",
        "UserWarning",
        "never retrieved",
    ):
        assert found.count(told) == 1, told
    assert found.count("test_logs.py") >= 3
    assert form == "text" or all(json.loads(line) for line in found.splitlines())
    assert logged(print_things, log_format=form, log_prompts=True).count("secret") >= 2


def test_json_lines_are_objects_with_the_facts() -> None:
    """One a line; what is said to the person who starts the program too."""

    def work(log: logging.Logger, say: Any) -> None:
        log.info("one\ntwo", extra={"facts": {"tokens": 3, "name": "问"}})
        say("http://127.0.0.1:7860/")

    first, second = map(json.loads, logged(work, log_format="json", log_level="info").splitlines())
    assert (first["message"], first["tokens"], first["name"], first["level"]) == ("one\ntwo", 3, "问", "info")
    assert second["message"] == "http://127.0.0.1:7860/"


def test_text_lines_tell_the_same_and_notices_stand_alone() -> None:
    """For people."""

    def work(log: logging.Logger, say: Any) -> None:
        log.warning("slow", extra={"facts": {"seconds": 2}})
        say("hello")

    line, notice = logged(work).splitlines()
    assert line.endswith("WARNING chatglm_backend.somewhere: slow seconds=2")
    assert notice == "hello"


def test_other_packages_chatter_is_left_out() -> None:
    """Unless it is a warning."""

    def work(_: logging.Logger, __: Any) -> None:
        logging.getLogger("elsewhere").info("chatter")
        logging.getLogger("elsewhere").warning("a warning")

    assert "chatter" not in logged(work, log_level="debug")
    assert "a warning" in logged(work)


def test_a_request_is_one_line_without_its_query() -> None:
    """Tokens and prompts stand in queries."""

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(_: Any = None) -> Any:
        return None

    def work(_: logging.Logger, __: Any) -> None:
        scope = {
            "type": "http", "method": "GET", "path": "/v1/x", "query_string": b"token=secret",
            "headers": [(b"authorization", b"secret")], "client": ("10.0.0.5", 1),
        }  # fmt: skip
        asyncio.run(RequestLog(application)(scope, nothing, nothing))

    found = logged(work, log_format="json", log_level="info")
    line = json.loads(found)
    assert (line["method"], line["path"], line["status"], line["client"]) == ("GET", "/v1/x", 404, "10.0.0.5")
    assert "secret" not in found
    assert logged(work) == ""
