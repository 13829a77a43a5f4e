"""A JSON schema as text, made ready for the grammar engine. Knows no vocabulary."""

from __future__ import annotations

import re
from typing import Any, Final

from chatglm_backend.engine.schema_references import check_references
from chatglm_backend.errors import UnusableSchema
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import parse_json

_MOST_CHARACTERS: Final = 64 * 1024
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "prefixItems")
_ONES: Final = ("items", "additionalProperties")


def read_schema(text: str) -> dict[str, Any]:
    """The schema that ``text`` holds; its objects have no other properties than those named, unless it speaks of them.

    Raises UnusableSchema for what is no schema, for one that is too large, and for references without an end.
    """
    if len(text) > _MOST_CHARACTERS:
        raise refusal(Sentence("schema.too_large", limit=_MOST_CHARACTERS // 1024))
    try:
        schema = parse_json(text.encode())
    except ValueError as error:
        raise refusal(Sentence("schema.not_json")) from error
    if not isinstance(schema, dict):
        raise refusal(Sentence("schema.not_object"))
    check_references(schema)
    return schema if _combines(schema) else _closed(schema)


def refusal(reason: Sentence) -> UnusableSchema:
    """What a request with a schema that cannot be kept to is answered with."""
    return UnusableSchema(reason=reason)


def reason_of(message: str) -> Sentence:
    """Why the grammar engine cannot keep to a schema, from its own ``message``."""
    names = re.match(r"Unimplemented keys: \[(.*?)\]", message)
    if names is not None:
        return Sentence("schema.keywords", names=names[1].replace('"', ""))
    if message.startswith("oneOf "):
        return Sentence("schema.one_of")
    if message.startswith("circular references"):
        return Sentence("schema.circle")
    kind = re.match(r"Unknown format: (.*)", message)
    if kind is not None:
        return Sentence("schema.format", name=kind[1][:40])
    detail = message.strip().splitlines()[-1].removeprefix("error: ")[:200] if message.strip() else "?"
    return Sentence("schema.pattern" if message.startswith("regex ") else "schema.refused", detail=detail)


def _combines(node: object) -> bool:
    """Whether schemas may be laid over each other somewhere, so that one may name another's properties."""
    if isinstance(node, list):
        return any(map(_combines, node))
    if not isinstance(node, dict):
        return False
    laid_over = "allOf" in node or ("properties" in node and not node.keys().isdisjoint(("anyOf", "oneOf", "$ref")))
    return laid_over or any(map(_combines, node.values()))


def _closed(schema: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for name, value in schema.items():
        if name in _MAPS and isinstance(value, dict):
            found[name] = {key: _closed(inner) for key, inner in value.items()}
        elif name in _LISTS and isinstance(value, list):
            found[name] = [_closed(inner) for inner in value]
        elif name in _ONES:
            found[name] = _closed(value)
    named, required = found.get("properties"), found.get("required", [])
    if not isinstance(named, dict) or "patternProperties" in found or not isinstance(required, list):
        return found
    return {"additionalProperties": False, **found} if all(name in named for name in required) else found
