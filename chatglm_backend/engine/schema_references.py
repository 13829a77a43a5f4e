"""Whether a JSON schema's references let an answer come to its end. Knows JSON only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from chatglm_backend.errors import UnusableSchema
from chatglm_backend.sentences import Sentence

_MAPS: Final = ("properties", "patternProperties")
_LISTS: Final = ("items", "prefixItems", "anyOf", "oneOf", "allOf")
_ONES: Final = ("items", "additionalItems", "additionalProperties")


def check_references(schema: dict[str, Any]) -> None:
    """Raises UnusableSchema for one of which a part refers to nothing here, or in a circle that has no way out."""
    nodes: dict[int, dict[str, Any]] = {id(schema): schema}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if "$id" in node and node is not schema:
            raise UnusableSchema(reason=Sentence("schema.keywords", names="$id"))
        for part in _parts(node, schema):
            if isinstance(part, dict) and id(part) not in nodes:
                nodes[id(part)] = part
                waiting.append(part)
    ending: set[int] = set()
    before, order = -1, list(nodes.values())
    while before < len(ending):
        before = len(ending)
        order.reverse()  # references mostly lead to what was found later
        ending.update(id(node) for node in order if id(node) not in ending and _ends(node, schema, ending))
    if len(ending) < len(nodes):
        raise UnusableSchema(reason=Sentence("schema.endless"))


def _parts(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[object]:
    """What a value that fits may have to fit, too, as a whole or in part."""
    if isinstance(node.get("$ref"), str):
        yield _found(schema, node["$ref"])
    yield from (node[name] for name in _ONES if name in node)
    for name in _MAPS:
        yield from node[name].values() if isinstance(node.get(name), dict) else ()
    for name in _LISTS:
        yield from node[name] if isinstance(node.get(name), list) else ()


def _ends(node: dict[str, Any], schema: dict[str, Any], ending: set[int]) -> bool:
    """Whether some finite value fits, as far as is known of the parts of it that are in ``ending``."""

    def whole(part: object) -> bool:
        return not isinstance(part, dict) or id(part) in ending

    if isinstance(node.get("$ref"), str) and not whole(_found(schema, node["$ref"])):
        return False
    for name, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        if isinstance(node.get(name), list) and node[name] and not enough(map(whole, node[name])):
            return False
    kinds = [node["type"]] if isinstance(node.get("type"), str) else node.get("type")
    if not isinstance(kinds, list):
        return True
    named, required, least = node.get("properties"), node.get("required"), node.get("minItems")
    properties = named if isinstance(named, dict) and isinstance(required, list) else {}
    items = [one for name in ("prefixItems", "items") for one in _listed(node.get(name))]
    needed = {
        "object": [part for name, part in properties.items() if name in (required or ())],
        "array": [part for at, part in enumerate(items) if isinstance(least, (int, float)) and at < least],
    }
    return any(all(map(whole, needed.get(str(kind), ()))) for kind in kinds)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _found(schema: object, reference: str) -> object:
    """What ``#`` or ``#/a/pointer`` leads to. Raises UnusableSchema for nothing, and for references of other kinds."""
    front, *steps = unquote(reference).split("/")
    node = schema if front == "#" else None
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
        else:
            node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, (dict, bool)):
        raise UnusableSchema(reason=Sentence("schema.reference", name=reference[:40]))
    return node
