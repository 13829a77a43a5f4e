"""Requests of OpenAI's clients: what is read, what is refused, and what asks for nothing here.

Knows no HTTP. Replies are plain dictionaries, made in :mod:`chatglm_backend.api.replies`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from chatglm_backend.api.files import File, read_part
from chatglm_backend.api.tools import NAME, ToolChoice, Tools, Turn
from chatglm_backend.core import ANY_OBJECT, GenerationParams
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.settings import Settings


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


def _is_file(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "file"


def _prompts(prompt: object) -> tuple[str, ...]:
    given = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_PROMPTS:
        raise ValueError(f"use a text or a list of at most {_MOST_PROMPTS}")
    if not all(isinstance(text, str) for text in given):
        raise ValueError("use texts; token ids are not supported")
    return tuple(_whole_characters(text) for text in given)


def _biases(bias: object) -> tuple[tuple[int, float], ...]:
    given = {} if bias is None else bias
    if not isinstance(given, Mapping) or len(given) > _MOST_BIASES:
        raise ValueError(f"use an object with at most {_MOST_BIASES} token ids")
    found: dict[int, float] = {}
    for token, value in given.items():
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and -100 <= value <= 100
        if not right or not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError("use token ids with numbers from -100 to 100")
        found[int(token)] = float(value)
    return tuple(found.items())


def _stops(stop: object) -> tuple[str, ...]:
    given = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(given, list) or len(given) > 16 or not all(isinstance(text, str) and text for text in given):
        raise ValueError("use a text or a list of at most 16 texts, none of them empty")
    if any(len(text) > 256 for text in given):
        raise ValueError("a stop text may have at most 256 characters")
    return tuple(_whole_characters(text) for text in given)


def _as_fits(value: object) -> object:
    """Minus one asks for as many tokens as fit."""
    return _MOST_TOKENS if value == -1 and not isinstance(value, bool) else value


def _whole_number(value: object) -> object:
    """JSON knows one kind of number: 5.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_MOST_PROMPTS, _MOST_ANSWERS, _MOST_BIASES = 128, 8, 1024
_MOST_TOKENS = int(sampling_fields()["max_new_tokens"].high)
_TEXT_SCHEMA = {"type": "string"}
_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT_SCHEMA},
    "required": ["type", "text"],
}
_CONTENT_SCHEMA = {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _PART_SCHEMA}, {"type": "null"}]}
_PROMPT_LIST = {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": _MOST_PROMPTS}
_BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": _MOST_BIASES,
}
_BIAS_SCHEMA = {"anyOf": [_BIASES, {"type": "null"}]}
_TOKENS_SCHEMA = {"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": _MOST_TOKENS}]}
_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": 256}
_STOP_SCHEMA = {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": 16}, {"type": "null"}]}

IDLE = "Accepted; it asks for nothing here."
_UNSUPPORTED = "it is not supported; leave it out"

Content = Annotated[str, BeforeValidator(_joined_parts), WithJsonSchema(_CONTENT_SCHEMA)]
Prompts = Annotated[tuple[str, ...], BeforeValidator(_prompts), WithJsonSchema({"anyOf": [_TEXT_SCHEMA, _PROMPT_LIST]})]
Biases = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_biases), WithJsonSchema(_BIAS_SCHEMA)]
Stops = Annotated[tuple[str, ...], BeforeValidator(_stops), WithJsonSchema(_STOP_SCHEMA)]
Whole = BeforeValidator(_whole_number)
TokenId = Annotated[int, Field(ge=0, lt=2**31), Whole]
Name = Annotated[
    str, Field(max_length=512), AfterValidator(_whole_characters), WithJsonSchema({**_TEXT_SCHEMA, "maxLength": 512})
]


def _bounds(name: str) -> Any:  # noqa: ANN401 - pydantic's own type is not public
    found = sampling_fields(requests=True)[name]
    return Field(ge=found.low, le=found.high)


Tokens = Annotated[int, _bounds("max_new_tokens"), BeforeValidator(_as_fits), Whole, WithJsonSchema(_TOKENS_SCHEMA)]
TokensOrNone = Annotated[
    int,
    Field(ge=0, le=_MOST_TOKENS),
    BeforeValidator(_as_fits),
    Whole,
    WithJsonSchema({"type": "integer", "minimum": -1, "maximum": _MOST_TOKENS}),
]
# Those two have other names or other forms here.
_NUMBERS = [name for name in sampling_fields(requests=True) if name not in ("max_new_tokens", "logprobs")]


def _only(reason: str, *values: Any) -> Any:  # noqa: ANN401 - the field's own annotation says what it is
    """A field that may only ask for what is done anyway: one of ``values``, or nothing."""
    return Field(default=None, description=reason, json_schema_extra={"enum": [None, *values]})


def _idle() -> Any:  # noqa: ANN401 - the field's own annotation says what it is
    """A field of OpenAI's that asks for nothing here."""
    return Field(default=None, description=IDLE)


class _Exact(BaseModel):
    """Fields must be known and have their type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _refuse(cls, value: object, info: ValidationInfo) -> object:
        found = cls.model_fields[info.field_name or ""]
        only = found.json_schema_extra
        if isinstance(only, dict) and value not in cast("list[object]", only["enum"]):
            raise PydanticCustomError("unsupported", "{reason}", {"reason": found.description})
        return value


class StreamOptions(_Exact):
    """``include_usage`` adds the token counts as the last chunk; OpenAI's padding of chunks asks for nothing here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class NamedSchema(_Exact):
    """A JSON schema. It is kept to, ``strict`` or not; ``name`` and ``description`` ask for nothing here."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    wanted: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Exact):
    """What an answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema is needed with "type": "json_schema", and only there')
        return self


class ChatMessage(Turn):
    """A turn whose content may be text parts, and a user's also files.

    What replies hold beside is ignored when sent back.
    """

    content: Content = ""
    _files: tuple[File, ...] = PrivateAttr(())

    @property
    def files(self) -> tuple[File, ...]:
        """What came with the text."""
        return self._files

    @model_validator(mode="wrap")
    @classmethod
    def _with_files(cls, given: object, handler: ModelWrapValidatorHandler[ChatMessage]) -> ChatMessage:
        content = given.get("content") if isinstance(given, Mapping) else None
        if not isinstance(content, list) or not any(_is_file(part) for part in content):
            return handler(given)
        message = handler({**cast("dict[str, Any]", given), "content": [one for one in content if not _is_file(one)]})
        if message.role != "user":
            raise ValueError("only messages of the user may have files")
        message._files = tuple(read_part(part) for part in content if _is_file(part))
        return message


if TYPE_CHECKING:
    _Numbers = _Exact
else:
    _kinds = {name: {"int": int, "float": float}[sampling_fields(requests=True)[name].kind] for name in _NUMBERS}
    _Numbers = create_model(
        "_Numbers",
        __base__=_Exact,
        **{name: (Annotated[kind, _bounds(name), Whole] | None, None) for name, kind in _kinds.items()},
    )


class _Sampling(_Numbers):
    """What chats and completions share; its other numbers are those of :mod:`chatglm_backend.sampling`."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    stop: Stops = ()
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=64)] = None
    n: Annotated[int, Field(ge=1, le=_MOST_ANSWERS), Whole] | None = None
    logit_bias: Biases = ()
    response_format: ResponseFormat | None = None
    user: Any = _idle()
    metadata: Any = _idle()
    store: Any = _idle()
    parallel_tool_calls: Any = _idle()
    service_tier: Any = _idle()
    safety_identifier: Any = _idle()
    prompt_cache_key: Any = _idle()

    @property
    def include_usage(self) -> bool:
        """Whether the last chunk of a stream is to hold the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def json_schema(self) -> str | None:
        """The schema that an answer must fit; ``None``: it is text."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        return json.dumps(wanted.json_schema.wanted) if wanted.json_schema else ANY_OBJECT

    @property
    def alternatives(self) -> int | None:
        """How many likeliest tokens to tell with each token; ``None``: no probability at all."""
        raise NotImplementedError

    def limit(self, settings: Settings) -> int:
        """Most new tokens: as asked for, as set, or as many as fit."""
        return self.max_tokens or settings.answer_tokens(_MOST_TOKENS)

    def params(self, settings: Settings) -> GenerationParams:
        """How to choose tokens; what the request leaves open comes from the settings."""
        asked: dict[str, Any] = {name: value for name in _NUMBERS if (value := getattr(self, name)) is not None}
        return settings.sampling(
            max_new_tokens=self.limit(settings),
            stop=self.stop,
            stop_ids=tuple(self.stop_token_ids or ()),
            logit_bias=self.logit_bias,
            logprobs=self.alternatives,
            **asked,
        )


class Prediction(_Exact):
    """Much of what the answer may say."""

    type: Literal["content"]
    content: Content


class ChatRequest(_Sampling):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _bounds("logprobs"), Whole] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    prediction: Prediction | None = None
    functions: Any = _only("it is OpenAI's older form; use tools", [])
    function_call: Any = _only("it is OpenAI's older form; use tool_choice", "none")
    modalities: Any = _only('it can only be ["text"]', ["text"])

    @field_validator("top_logprobs")
    @classmethod
    def _of_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("it needs logprobs to be true")
        return value

    @property
    def alternatives(self) -> int | None:
        """See :class:`_Sampling`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def echoes(self) -> tuple[str, ...]:
        """What stands before each answer."""
        return ("",)

    def limit(self, settings: Settings) -> int:
        """See :class:`_Sampling`; the newer name wins."""
        return self.max_completion_tokens or super().limit(settings)


class CompletionRequest(_Sampling):
    """``POST /v1/completions``: each prompt is sent exactly as it is."""

    prompt: Prompts
    max_tokens: TokensOrNone | None = None
    best_of: Annotated[int | None, Whole] = _only("it can only be 1", 1)
    echo: bool | None = None
    logprobs: Annotated[int, _bounds("logprobs"), Whole] | None = None
    suffix: str | None = _only(_UNSUPPORTED, "")

    @property
    def alternatives(self) -> int | None:
        """See :class:`_Sampling`."""
        return self.logprobs

    @property
    def echoes(self) -> tuple[str, ...]:
        """What stands before each prompt's answers."""
        return self.prompt if self.echo else ("",) * len(self.prompt)

    @property
    def prompt_chances(self) -> bool:
        """Whether the prompt's own tokens are told with their chances."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def prompt_only(self) -> bool:
        """Whether there is to be no answer at all."""
        return self.max_tokens == 0

    def limit(self, settings: Settings) -> int:
        """See :class:`_Sampling`."""
        return 1 if self.prompt_only else super().limit(settings)
