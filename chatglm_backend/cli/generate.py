"""``generate``: one prompt, one answer, in the printed form of the original recipe."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import INTERRUPTED, emit_json, guarded, note, read_input, say
from chatglm_backend.cli.session import follow, open_service
from chatglm_backend.core import (
    Completed,
    FinishReason,
    GenerationRequest,
    Message,
    ModelInfo,
    PromptFormat,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import ConfigError
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.code import LANGUAGES, code_prompt
from chatglm_backend.units import digits

if TYPE_CHECKING:
    from chatglm_backend.documents.reading import Document
    from chatglm_backend.service import Service
    from chatglm_backend.serving.ticket import Ticket
    from chatglm_backend.tokenizers.base import EncodedPrompt

_PROMPT_LINE = "-" * 20 + " Prompt " + "-" * 20
_OUTPUT_LINE = "-" * 20 + " Output " + "-" * 20


@dataclass(slots=True)
class Answer:
    """One answer as it came. ``seconds`` runs from submission to the end."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    end: Completed | None = None
    seconds: float = 0.0
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """How it ended, and its figures."""
        end = self.end
        return {
            "finish_reason": end.finish_reason.value if end else None,
            "usage": asdict(end.usage) if end else None,
            "timing": asdict(end.timing) if end else None,
        }


@guarded
@options.with_settings("model", *sampling_fields(), *options.ENGINE, "document_mb", "log_level")
def generate(
    *,
    prompt: Annotated[
        str, typer.Option("--prompt", help="The question; - reads it from standard input.", show_default=True)
    ] = "AI是什么？",
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer while it is made.")] = False,
    json_output: options.Json = False,
    prompt_format: options.PromptFormatOption = None,
    file: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads it on Python 3.10 too
        typer.Option(
            "--file",
            help="A document that the question is about: text, PDF or docx; may be repeated.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str, typer.Option("--language", help="For CodeGeeX2: put a comment that names this language before the code.")
    ] = "",
    stop: options.Stop = None,
    json_schema: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it on Python 3.10 too
        typer.Option(
            "--json-schema",
            help="The answer is JSON that fits the schema in this file; - reads it from standard input.",
            show_default=False,
        ),
    ] = None,
    settings: Settings,
) -> int:
    """Answer one prompt.

    Without --model: ChatGLM-6B where this machine has it, else the bundled small model. A hub id
    that is named is downloaded once; the INT4 form is kept, so that the next start is quick.

    \b
    Examples:
      python -m chatglm_backend generate --prompt "AI是什么？"
      python -m chatglm_backend generate --model THUDM/chatglm2-6b --n-predict 128 --stream
      python -m chatglm_backend generate --model ./chatglm-6b --temperature 0.8 --top-p 0.8 --seed 1
      python -m chatglm_backend generate --model THUDM/chatglm3-6b --adapter ./my-lora --prompt "你好"
      python -m chatglm_backend generate --model codegeex2-6b --language Python --prompt "# quicksort" --n-predict 128
      python -m chatglm_backend generate --file report.pdf --prompt "这份报告的结论是什么？"
      python -m chatglm_backend generate --json | python -m json.tool
      echo '{"type": "object"}' | python -m chatglm_backend generate --json-schema -
    """  # noqa: D301 - \b keeps the examples' lines apart
    if language not in ("", *LANGUAGES):
        raise ConfigError(name="language", value=language, reason=Sentence("use.one_of", names=", ".join(LANGUAGES)))
    request = GenerationRequest(
        uuid.uuid4().hex,
        prompt=code_prompt(language, read_input() if prompt == "-" else prompt),
        prompt_format=cast("PromptFormat", prompt_format or "recipe"),
        params=settings.sampling(stop=tuple(stop or ())),
        json_schema=json_schema and (read_input() if json_schema == "-" else json.dumps(read_json(Path(json_schema)))),
    )
    documents = _read(file or (), settings)
    with open_service(settings) as (service, info):
        request = replace(request, adapter=info.first_adapter)
        if info.completes and prompt_format is None:
            request = replace(request, prompt_format="raw")
        if documents:
            request = _with_documents(service, info, request, documents)
        encoded = service.preview_prompt(request)
        live = stream and not json_output
        if live:
            say(_PROMPT_LINE)
            say(encoded.text)
            say(_OUTPUT_LINE)
            say(service.decode(encoded.ids), end="")
        answer = collect(service.submit(request), live=live)
        if live:
            say("")
            say(f"Inference time: {digits(answer.seconds)} s")
        else:
            _print(service, info, request, encoded, answer, json_output=json_output)
    if answer.interrupted:
        note(Sentence("note.answer_stopped"))
        return INTERRUPTED
    if not json_output and answer.end and answer.end.finish_reason is FinishReason.LENGTH:
        note(_cut_off(answer.end.usage, request.params.max_new_tokens))
    return 0


def _read(paths: Sequence[Path], settings: Settings) -> tuple[Document, ...]:
    from chatglm_backend.documents.reading import DocumentReader

    reader = DocumentReader(settings.document_mb << 20)
    return tuple(reader.read_file(path) for path in paths)


def _with_documents(
    service: Service, info: ModelInfo, request: GenerationRequest, documents: tuple[Document, ...]
) -> GenerationRequest:
    """The request with the documents before its question; says on stderr where they are not whole."""
    from chatglm_backend.documents.prompt import Asked, place

    def count(turns: tuple[Message, ...]) -> int:
        return len(service.preview_prompt(replace(request, prompt=turns[0].content)).ids)

    asked = [Asked(Message("user", request.prompt or ""), documents)]
    placed = place(asked, count, info.context_limit, request.params.max_new_tokens)
    if placed.passages:
        pages = dict.fromkeys(part.label for part in placed.passages)
        note(Sentence("note.passages", chosen=len(placed.passages), count=placed.count, places=", ".join(pages)))
    return replace(request, prompt=placed.messages[0].content)


def collect(ticket: Ticket, *, live: bool) -> Answer:
    """Read a ticket to its end; Ctrl-C stops the answer and keeps what came. Raises the ticket's error."""
    answer = Answer()
    began = monotonic_clock()
    events = follow(ticket)
    while True:
        try:
            for event in events:
                if isinstance(event, TokenEvent):
                    answer.ids.append(event.token_id)
                if isinstance(event, (TokenEvent, Completed)):
                    answer.text += event.text
                    if live and event.text:
                        say(event.text, end="")
                if isinstance(event, Completed):
                    answer.end = event
            break
        except KeyboardInterrupt:
            if answer.interrupted:
                raise
            answer.interrupted = True
            ticket.cancel(FinishReason.CANCELLED)
            # The generator ended with the interrupt: start over and take what is new.
            answer.text, answer.ids, live = "", [], False
            events = follow(ticket)
        except BaseException:
            ticket.cancel(FinishReason.CANCELLED)
            raise
    answer.seconds = answer.end.timing.total_s if answer.end else monotonic_clock() - began
    return answer


def whole_text(service: Service, prompt_ids: Sequence[int], answer: Answer) -> str:
    """Prompt and answer decoded together, as the recipe prints them, without what a stop text cut off."""
    alone = service.decode(answer.ids)
    if not alone.startswith(answer.text):
        return service.decode(prompt_ids) + answer.text
    whole = service.decode([*prompt_ids, *answer.ids])
    return whole[: len(whole) - (len(alone) - len(answer.text))]


def _cut_off(usage: Usage, limit: int) -> Sentence:
    if usage.completion_tokens < limit:
        return Sentence("note.context_full", tokens=usage.completion_tokens)
    return Sentence("note.cut_off", limit=limit)


def _print(
    service: Service,
    info: ModelInfo,
    request: GenerationRequest,
    encoded: EncodedPrompt,
    answer: Answer,
    *,
    json_output: bool,
) -> None:
    output = whole_text(service, encoded.ids, answer)
    if not json_output:
        say(f"Inference time: {digits(answer.seconds)} s")
        say(_PROMPT_LINE)
        say(encoded.text)
        say(_OUTPUT_LINE)
        say(output)
        return
    emit_json(
        {
            "ok": True,
            "model": info.name,
            "family": info.family,
            "family_reason": info.family_reason,
            "prompt": request.prompt,
            "prompt_format": request.prompt_format,
            "formatted_prompt": encoded.text,
            "prompt_ids": list(encoded.ids),
            "text": answer.text,
            "token_ids": answer.ids,
            "output": output,
            "inference_time_s": answer.seconds,
            **answer.document(),
            "kernel": info.kernel,
            "kernel_reason": info.kernel_reason,
            "threads": info.threads,
            "is_demo": info.is_demo,
        }
    )
