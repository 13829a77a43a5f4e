"""``chat``: a conversation in the terminal. Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import contextlib
import sys
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.generate import Answer, collect
from chatglm_backend.cli.output import emit_json, guarded, note, say
from chatglm_backend.cli.session import open_service
from chatglm_backend.core import GenerationParams, GenerationRequest, Message
from chatglm_backend.errors import ContextLimitExceeded, RequestError
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import CHAT_TOKENS, Settings

if TYPE_CHECKING:
    from chatglm_backend.service import Service


_COMMANDS = Sentence("note.commands")


@guarded
@options.with_settings("model", *sampling_fields(), *options.ENGINE, "log_level", max_new_tokens=CHAT_TOKENS)
def chat(
    *,
    system: Annotated[Optional[str], typer.Option("--system", help="Instructions before the conversation.")] = None,  # noqa: UP045
    json_output: options.Json = False,
    settings: Settings,
) -> int:
    """Talk with the model; it remembers the conversation.

    From a pipe, every line is one question, and the exit code is 1 when one of them could not be answered.

    \b
    Examples:
      python -m chatglm_backend chat --model THUDM/chatglm3-6b --temperature 0.8 --top-p 0.8
      printf '你好\\nWhat is AI?\\n' | python -m chatglm_backend chat --json
    While talking:
      /reset   forget the conversation
      /exit    end (Ctrl-D too)
      Ctrl-C   stop the answer
    """  # noqa: D301
    with open_service(settings) as (service, info):
        conversation = _Conversation(
            service, settings.sampling(), system, adapter=info.first_adapter, quiet=json_output
        )
        if info.completes:
            note(Sentence(f"note.{'code' if info.completes_code else 'text'}_only", name=info.name))
        if sys.stdin.isatty():
            note(f"{info.name}. {_COMMANDS}")
        turns = _talk(conversation)
        failed = any("error" in turn for turn in turns)
        if json_output:
            emit_json({"ok": not failed, "model": info.name, "family": info.family, "turns": turns})
    # Whoever sits at the terminal has seen it; a script needs the code.
    return 1 if failed and not sys.stdin.isatty() else 0


class _Conversation:
    """The messages so far, and how the next answer is made."""

    def __init__(
        self, service: Service, params: GenerationParams, system: str | None, *, adapter: str = "", quiet: bool
    ) -> None:
        self._service = service
        self._adapter = adapter
        self._params = params
        self._system = [Message("system", system)] if system else []
        self._quiet = quiet
        self._messages: list[Message] = []
        info = service.status().info
        self._rounds = 0 if info is None else info.chat_rounds
        self._told = False

    def reset(self) -> None:
        """Forget everything but the system text."""
        self._messages.clear()

    def ask(self, question: str) -> dict[str, Any]:
        """Answer on stdout; the oldest rounds go when the context is full. Raises a RequestError."""
        self._messages.append(Message("user", question))
        if self._rounds and len(self._messages) > 2 * self._rounds + 1:
            del self._messages[: -2 * self._rounds - 1]
            if not self._told:
                note(Sentence("chat.rounds", rounds=self._rounds))
            self._told = True
        try:
            answer = self._answer()
        except BaseException:
            self._messages.pop()
            raise
        self._messages.append(Message("assistant", answer.text))
        return {"user": question, "assistant": answer.text, **answer.document()}

    def _answer(self) -> Answer:
        while True:
            messages = tuple(self._system + self._messages)
            request = GenerationRequest(uuid.uuid4().hex, messages=messages, params=self._params, adapter=self._adapter)
            try:
                ticket = self._service.submit(request)
            except ContextLimitExceeded:
                if len(self._messages) < 3:
                    raise
                del self._messages[:2]
                note(Sentence("note.round_forgotten"))
                continue
            answer = collect(ticket, live=not self._quiet)
            if not self._quiet:
                say("")
            return answer


def _talk(conversation: _Conversation) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its history
    while True:
        try:
            line = _read_line()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                return turns
            note(f"\n{_COMMANDS}")
            continue
        if line is None or line.strip() == "/exit":
            return turns
        if not line.strip():
            continue
        if line.strip() == "/reset":
            conversation.reset()
            note(Sentence("note.forgotten"))
        elif line.strip() == "/help":
            note(_COMMANDS)
        else:
            try:
                turns.append(conversation.ask(line))
            except RequestError as error:
                note(error)
                turns.append({"user": line, "error": {"code": error.code, "message": str(error)}})


def _read_line() -> str | None:
    """The next line, or ``None`` at the end of input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
    sys.stderr.write("> ")
    sys.stderr.flush()
    try:
        return input()
    except EOFError:
        return None
