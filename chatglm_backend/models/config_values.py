"""Values of a config.json, checked: what is no number of the right size is named in one sentence.

Knows keys and bounds, no model.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from chatglm_backend.errors import DamagedFile
from chatglm_backend.sentences import Sentence

# Far above every model that a CPU could run, far below what would exhaust it to list.
_MOST: Mapping[str, int] = {
    "num_layers": 512,
    "num_attention_heads": 1024,
    "multi_query_group_num": 1024,
    "kv_channels": 4096,
    "hidden_size": 1 << 16,
    "inner_hidden_size": 1 << 20,
    "ffn_hidden_size": 1 << 20,
    "vocab_size": 1 << 22,
    "padded_vocab_size": 1 << 22,
    "max_sequence_length": 1 << 24,
    "seq_length": 1 << 24,
    "num_hidden_layers": 512,
    "num_key_value_heads": 1024,
    "head_dim": 4096,
    "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 24,
}


def size(config: Mapping[str, object], key: str, path: str, *, default: int | None = None) -> int:
    """A size that the config has, or else ``default``. Raises DamagedFile, as all of these do."""
    found = config.get(key)
    return _whole(default if found is None else found, key, path, 1, _MOST[key])


def token_id(config: Mapping[str, object], key: str, path: str, vocab: int, *, default: int | None = None) -> int:
    """An id within the vocabulary."""
    found = config.get(key)
    return _whole(default if found is None else found, key, path, 0, vocab - 1)


def stop_ids(config: Mapping[str, object], path: str) -> list[int]:
    """The ids that the config calls ends: none, one, or a list of them."""
    found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    return [_whole(one, "eos_token_id", path, 0, _MOST["vocab_size"]) for one in ids[:100]]


def _whole(value: object, key: str, path: str, least: int, most: int) -> int:
    if not isinstance(value, int):
        raise no_number(value, key, path, least, most)
    number(value, key, path, least, most)
    return value


def number(value: object, key: str, path: str, least: float, most: float) -> float:
    """The value itself, if it is a number between the two."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise no_number(value, key, path, least, most)
    return value


def no_number(value: object, key: str, path: str, least: float, most: float) -> DamagedFile:
    """The error that names a value which is not a number between the two."""
    return DamagedFile(path=path, reason=Sentence("config.value", name=key, value=short(value), low=least, high=most))


def eps(config: Mapping[str, object], key: str, path: str) -> float:
    """What a norm adds to the variance."""
    value = config.get(key, 1e-5)
    if value in (0, 1):
        raise no_number(value, key, path, 0, 1)
    return number(value, key, path, 0, 1)


def short(value: object) -> str:
    """A foreign value for a sentence: never long."""
    return value[:80] if isinstance(value, str) else reprlib.repr(value)
