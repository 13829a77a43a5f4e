"""Changes to bytes that know what the bytes are: text, JSON, lines, safetensors, zip archives."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 64, 2**31, 2**63, 2**70, -(2**63), 1e308, 0.5, float("nan"), float("inf"), "",
    "0", "x" * 300, "\ud800", "../x", "[" * 5, [], {}, [[]], [None], {"": None}, [1] * 100, [0.5, "a"], "字", "\0",
)  # fmt: skip
BYTES = (b"", b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b'"', b"{", b"}" * 9, b"\0" * 64)
Mutator = Callable[[DrawFn, bytes], bytes]


def raw(draw: DrawFn, data: bytes) -> bytes:
    """A few bytes flipped, replaced, put in, taken out, said twice, or all from somewhere on cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("flip", "replace", "insert", "delete", "repeat", "cut")))
        length = draw(st.sampled_from((1, 2, 8, 64)))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "replace":
            data = data[:at] + draw(st.sampled_from(BYTES)) + data[at + length :]
        elif kind == "insert":
            data = data[:at] + draw(st.sampled_from(BYTES)) + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + length :]
        elif kind == "repeat":
            data = data[: at + length] + data[at:]
        else:
            data = data[:at]
    return data


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each part of the value is; of a long list the first parts."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _paths(part, (*path, key))


def _changed(draw: DrawFn, value: Any, path: tuple[Any, ...]) -> Any:
    """The value with the part at ``path`` changed."""
    if path and isinstance(value, dict):
        return {**value, path[0]: _changed(draw, value[path[0]], path[1:])}
    if path:
        return [*value[: path[0]], _changed(draw, value[path[0]], path[1:]), *value[path[0] + 1 :]]
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != key}
        other = draw(st.sampled_from((None, *sorted(value), "", "x", key + "x")))
        return rest if other is None else {**rest, other: value[key]}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], *[value[at]] * draw(st.sampled_from((0, 2))), *value[at + 1 :]]
    if isinstance(value, str) and value and draw(st.booleans()):
        return raw(draw, value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and draw(st.booleans()):
        return value + draw(st.sampled_from((-64, -1, 1, 2, 64)))
    return draw(st.sampled_from(ODD))


def as_json(draw: DrawFn, data: bytes) -> bytes:
    """Values, keys and nesting changed; sometimes the text itself."""
    if not draw(st.integers(0, 4)):
        return raw(draw, data)
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value, draw(st.sampled_from(list(_paths(value)))))
    return json.dumps(value).encode()


def lines(draw: DrawFn, data: bytes) -> bytes:
    """A line changed as JSON where it is that; lines left out, said twice, or torn."""
    parts = data.split(b"\n")
    at = draw(st.integers(0, len(parts) - 1))
    kind = draw(st.sampled_from(("inside", "inside", "drop", "twice", "torn")))
    if kind == "inside":
        parts[at] = as_json(draw, parts[at]) if parts[at].startswith(b"{") else raw(draw, parts[at])
    elif kind == "drop":
        del parts[at]
    elif kind == "twice":
        parts.insert(at, parts[at])
    else:
        return raw(draw, data)
    return b"\n".join(parts)


def safetensors(draw: DrawFn, data: bytes) -> bytes:
    """The header changed as JSON, with its right length; or the bytes."""
    if not draw(st.integers(0, 2)):
        return raw(draw, data)
    (length,) = struct.unpack("<Q", data[:8])
    header = as_json(draw, data[8 : 8 + length].rstrip())
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def archive(draw: DrawFn, data: bytes) -> bytes:
    """A member changed, with its right checksum; members left out, said twice or called otherwise; or the bytes."""
    if not draw(st.integers(0, 3)):
        return raw(draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        members = [(one.filename, found.read(one)) for one in found.infolist()]
    at = draw(st.integers(0, len(members) - 1))
    name, content = members[at]
    kind = draw(st.sampled_from(("inside", "inside", "inside", "drop", "twice", "rename")))
    if kind == "inside":
        members[at] = name, raw(draw, content)
    elif kind == "drop":
        del members[at]
    elif kind == "twice":
        members.insert(at, (name + "x", content))
    else:
        members[at] = draw(st.sampled_from([other for other, _ in members])), content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for one in members:
            made.writestr(*one)
    return out.getvalue()
