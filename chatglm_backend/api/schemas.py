"""Requests of OpenAI's clients: what is read, what is refused, and what is ignored as OpenAI does.

Knows no HTTP. Replies are plain dictionaries, made in :mod:`chatglm_backend.api.replies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)

from chatglm_backend.core import GenerationParams, Message, Role
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.settings import CHAT_TOKENS, Settings


def _whole_characters(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character (a lone surrogate)") from error
    return text


def _joined_parts(content: object) -> str:
    """Text of a message, or of its text parts joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _whole_characters(content)
    if not isinstance(content, list):
        raise ValueError("use text or a list of text parts")
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                'only parts such as {"type": "text", "text": "…"} can be read; this model sees no pictures'
            )
        texts.append(_whole_characters(part["text"]))
    return "".join(texts)


def _one_prompt(prompt: object) -> str:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise ValueError("use one text; several prompts or token ids are not supported")
    return _whole_characters(prompt)


def _stops(stop: object) -> tuple[str, ...]:
    given = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(given, list) or len(given) > 16 or not all(isinstance(text, str) and text for text in given):
        raise ValueError("use a text or a list of at most 16 texts, none of them empty")
    if any(len(text) > 256 for text in given):
        raise ValueError("a stop text may have at most 256 characters")
    return tuple(_whole_characters(text) for text in given)


def _whole_number(value: object) -> object:
    """JSON knows one kind of number: 5.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_TEXT_SCHEMA = {"type": "string"}
_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT_SCHEMA},
    "required": ["type", "text"],
}
_CONTENT_SCHEMA = {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _PART_SCHEMA}, {"type": "null"}]}
_PROMPT_SCHEMA = {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": 1}]}
_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": 256}
_STOP_SCHEMA = {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": 16}, {"type": "null"}]}

_UNSUPPORTED, _OFF = "is not supported; leave it out", (False,)

Content = Annotated[str, BeforeValidator(_joined_parts), WithJsonSchema(_CONTENT_SCHEMA)]
Prompt = Annotated[str, BeforeValidator(_one_prompt), WithJsonSchema(_PROMPT_SCHEMA)]
Stops = Annotated[tuple[str, ...], BeforeValidator(_stops), WithJsonSchema(_STOP_SCHEMA)]
Whole = BeforeValidator(_whole_number)
Name = Annotated[
    str, Field(max_length=512), AfterValidator(_whole_characters), WithJsonSchema({**_TEXT_SCHEMA, "maxLength": 512})
]


def _bounds(name: str) -> Any:  # noqa: ANN401 - pydantic's own type is not public
    found = sampling_fields()[name]
    return Field(ge=found.low, le=found.high)


Tokens = Annotated[int, _bounds("max_new_tokens"), Whole]
_NUMBERS = [name for name in sampling_fields() if name != "max_new_tokens"]  # that has other names here


def _only(reason: str, *values: Any) -> Any:  # noqa: ANN401 - the field's own annotation says what it is
    """A field that may only ask for what is done anyway: one of ``values``, or nothing."""
    return Field(default=None, description=reason, json_schema_extra={"enum": [None, *values]})


class _Lenient(BaseModel):
    """Unknown fields are ignored, as OpenAI does; known ones must have their type."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _refuse(self) -> _Lenient:
        for name, found in type(self).model_fields.items():
            only, value = found.json_schema_extra, getattr(self, name)
            if isinstance(only, dict) and value not in cast("list[object]", only["enum"]):
                raise ValueError(f"{name} {found.description}")
        return self


class StreamOptions(_Lenient):
    """``include_usage`` adds the token counts as the last chunk."""

    include_usage: bool | None = None


class ChatMessage(_Lenient):
    """One turn; ``developer`` is another word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = ""

    def message(self) -> Message:
        """In our own words."""
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, self.content)


if TYPE_CHECKING:
    _Numbers = _Lenient
else:
    _kinds = {name: {"int": int, "float": float}[sampling_fields()[name].kind] for name in _NUMBERS}
    _Numbers = create_model(
        "_Numbers",
        __base__=_Lenient,
        **{name: (Annotated[kind, _bounds(name), Whole] | None, None) for name, kind in _kinds.items()},
    )


class _Sampling(_Numbers):
    """What chats and completions share; its other numbers are those of :mod:`chatglm_backend.sampling`."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    stop: Stops = ()
    n: Annotated[int | None, Whole] = _only("must be 1: send the request again for another answer", 1)
    logprobs: Any = _only(_UNSUPPORTED, *_OFF)
    logit_bias: Any = _only(_UNSUPPORTED, {})

    @property
    def include_usage(self) -> bool:
        """Whether the last chunk of a stream is to hold the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def params(self, settings: Settings, max_new_tokens: int) -> GenerationParams:
        """How to choose tokens; what the request leaves open comes from the settings."""
        asked = {name: value for name in _NUMBERS if (value := getattr(self, name)) is not None}
        return settings.sampling(max_new_tokens=max_new_tokens, stop=self.stop, **asked)


class ChatRequest(_Sampling):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Tokens | None = None
    tools: Any = _only(_UNSUPPORTED, [])
    functions: Any = _only(_UNSUPPORTED, [])
    response_format: Any = _only('can only be {"type": "text"}', {"type": "text"})
    modalities: Any = _only('can only be ["text"]', ["text"])

    def limit(self, settings: Settings) -> int:
        """Most new tokens: as asked for, or enough for a usual answer."""
        return self.max_completion_tokens or self.max_tokens or settings.answer_tokens(CHAT_TOKENS)


class CompletionRequest(_Sampling):
    """``POST /v1/completions``: the prompt is sent exactly as it is."""

    prompt: Prompt
    best_of: Annotated[int | None, Whole] = _only(_UNSUPPORTED, 1)
    echo: bool | None = None
    suffix: str | None = _only(_UNSUPPORTED, "")

    def limit(self, settings: Settings) -> int:
        """Most new tokens: as asked for, or as set."""
        return self.max_tokens or settings.max_new_tokens
