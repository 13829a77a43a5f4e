"""What a checkpoint's config.json means to the models.

Knows the three families' sizes and bounds, and refuses the rest by name. Opens no files and guesses no
family: the caller hands in the parsed JSON and says which family it is read as.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chatglm_backend.errors import DamagedFile, UnsupportedFamily
from chatglm_backend.sentences import Sentence

Family = Literal["chatglm", "chatglm2", "chatglm3"]

# GLM-4 kept ChatGLM2's config keys; its vocabulary is what tells it apart when its name is gone.
_GLM4_VOCAB = 150_000

# The reference computes something else when one of these differs, so we would be silently wrong.
_V2_REQUIRED: Mapping[str, bool] = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
    "tie_word_embeddings": False,
}

_ROPE_BASE = 10_000
# GLM-4's variant for a million tokens has 10000, the most of all.
_MOST_ROPE_RATIO = 1 << 16

_END_OF_TEXT = 2
_V3_STOP_ROLES = (64795, 64797)

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
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and special ids of one checkpoint. Lengths are in tokens.

    ``gmask_id``, ``mask_id`` and ``bos_id`` are ChatGLM-6B's and ``None`` for the other families,
    whose positions do not depend on special ids. Rotary frequencies are powers of ``rope_base``; positions are
    divided by ``rope_divisor`` first.
    """

    family: Family
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    context_limit: int
    layernorm_eps: float
    stop_ids: tuple[int, ...]
    gmask_id: int | None = None
    mask_id: int | None = None
    bos_id: int | None = None
    rope_base: float = _ROPE_BASE
    rope_divisor: float = 1

    @staticmethod
    def from_json(config: Mapping[str, object], *, family: Family, path: str = "") -> ModelConfig:
        """Read a parsed config.json as one family's; ``path`` is named in errors.

        Raises UnsupportedFamily for other models and DamagedFile for unusable values.
        """
        where = path or "config.json"
        if family not in families_of(config):
            raise UnsupportedFamily(path=where, found=_other_model(config, family))
        return _first(config, where) if family == "chatglm" else _second(config, family, where)


def families_of(config: Mapping[str, object]) -> tuple[Family, ...]:
    """The families whose keys the config has: ChatGLM2 and ChatGLM3 share theirs, another model has none."""
    first: tuple[Family, ...] = ("chatglm",) if "inner_hidden_size" in config else ()
    return (*first, "chatglm2", "chatglm3") if "padded_vocab_size" in config else first


def family_named_in(text: str) -> Family | None:
    """The family that a hub id or a folder's name mentions, if it mentions one; folders above it do not count."""
    last = text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    families: dict[str, Family] = {
        "chatglm3": "chatglm3",
        "chatglm2": "chatglm2",
        "codegeex2": "chatglm2",
        "chatglm-6b": "chatglm",
    }
    return next((family for name, family in families.items() if name in last), None)


def what_config_names(config: Mapping[str, object]) -> Sentence:
    """The model that a config of none of the families names."""
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    return Sentence("found.model", model=_short(named)) if named else Sentence("found.nothing")


def _first(config: Mapping[str, object], path: str) -> ModelConfig:
    if config.get("position_encoding_2d", True) is not True:
        raise UnsupportedFamily(path=path, found=Sentence("found.positions"))
    hidden, heads = _size(config, "hidden_size", path), _size(config, "num_attention_heads", path)
    if hidden % (4 * heads):
        raise DamagedFile(path=path, reason=Sentence("config.heads"))
    vocab = _size(config, "vocab_size", path)
    bos = _id(config, "bos_token_id", path, vocab)
    return ModelConfig(
        family="chatglm",
        num_layers=_size(config, "num_layers", path),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_hidden_size=_size(config, "inner_hidden_size", path),
        vocab_size=vocab,
        context_limit=_size(config, "max_sequence_length", path, default=2048),
        layernorm_eps=_eps(config, path),
        # <eop> lies behind <sop> and ends every answer, also where an export names another id.
        stop_ids=_distinct(bos + 1, *_stop_ids(config, path)),
        # The oldest configs leave these out; they always lie this far in front of <sop>.
        gmask_id=_id(config, "gmask_token_id", path, vocab, default=bos - 3),
        mask_id=_id(config, "mask_token_id", path, vocab, default=bos - 4),
        bos_id=bos,
    )


def _second(config: Mapping[str, object], family: Family, path: str) -> ModelConfig:
    vocab = _size(config, "padded_vocab_size", path)
    if vocab >= _GLM4_VOCAB:
        raise UnsupportedFamily(path=path, found=Sentence("found.glm4"))
    ratio = _rope_ratio(config, path)
    for key, expected in _V2_REQUIRED.items():
        found = config.get(key, expected)
        if found is not expected:
            raise UnsupportedFamily(path=path, found=Sentence("found.variant", key=key, value=_short(found)))
    heads = _size(config, "num_attention_heads", path)
    grouped = config.get("multi_query_attention", True) is True
    kv_heads = _size(config, "multi_query_group_num", path) if grouped else heads
    head_dim = _size(config, "kv_channels", path)
    if heads % kv_heads or head_dim % 4:
        raise DamagedFile(path=path, reason=Sentence("config.groups"))
    return ModelConfig(
        family=family,
        num_layers=_size(config, "num_layers", path),
        hidden_size=_size(config, "hidden_size", path),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=_size(config, "ffn_hidden_size", path),
        vocab_size=vocab,
        context_limit=_size(config, "seq_length", path),
        layernorm_eps=_eps(config, path),
        stop_ids=_distinct(_END_OF_TEXT, *_stop_ids(config, path), *(_V3_STOP_ROLES if family == "chatglm3" else ())),
        # ChatGLM2-6B-32k squeezes its positions, the long ChatGLM3 turn more slowly: one field, two meanings.
        rope_base=_ROPE_BASE * (ratio if family == "chatglm3" else 1),
        rope_divisor=ratio if family == "chatglm2" else 1,
    )


def _rope_ratio(config: Mapping[str, object], path: str) -> float:
    """How far beyond its training a model reads; 1 for the usual ones. Fields that say it otherwise are refused."""
    for key, usual in (("rope_theta", _ROPE_BASE), ("rope_scaling", None)):
        found = config.get(key)
        if found not in (None, usual):
            raise UnsupportedFamily(path=path, found=Sentence("found.variant", key=key, value=_short(found)))
    found = config.get("rope_ratio")
    return 1 if found is None else _number(found, "rope_ratio", path, 1, _MOST_ROPE_RATIO)


def _other_model(config: Mapping[str, object], asked: Family) -> Sentence:
    found = families_of(config)
    return Sentence("found.other_family", found="/".join(found), asked=asked) if found else what_config_names(config)


def _size(config: Mapping[str, object], key: str, path: str, *, default: int | None = None) -> int:
    found = config.get(key)
    return _whole(default if found is None else found, key, path, 1, _MOST[key])


def _id(config: Mapping[str, object], key: str, path: str, vocab: int, *, default: int | None = None) -> int:
    found = config.get(key)
    return _whole(default if found is None else found, key, path, 0, vocab - 1)


def _stop_ids(config: Mapping[str, object], path: str) -> list[int]:
    """The ids that the config calls ends: none, one, or a list of them."""
    found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    return [_whole(one, "eos_token_id", path, 0, _MOST["vocab_size"]) for one in ids[:100]]


def _whole(value: object, key: str, path: str, least: int, most: int) -> int:
    if not isinstance(value, int):
        raise _not_from(value, key, path, least, most)
    _number(value, key, path, least, most)
    return value


def _number(value: object, key: str, path: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _not_from(value, key, path, least, most)
    return value


def _not_from(value: object, key: str, path: str, least: float, most: float) -> DamagedFile:
    return DamagedFile(path=path, reason=Sentence("config.value", name=key, value=_short(value), low=least, high=most))


def _eps(config: Mapping[str, object], path: str) -> float:
    value = config.get("layernorm_epsilon", 1e-5)
    if value in (0, 1):
        raise _not_from(value, "layernorm_epsilon", path, 0, 1)
    return _number(value, "layernorm_epsilon", path, 0, 1)


def _distinct(*ids: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


def _short(value: object) -> str:
    """A foreign value for a sentence: never long."""
    return value[:80] if isinstance(value, str) else reprlib.repr(value)
