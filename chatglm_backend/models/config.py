"""What a checkpoint's config.json means to the models.

Knows the families' sizes and bounds, and refuses the rest by name. Opens no files and guesses no
family: the caller hands in the parsed JSON and says which family it is read as.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chatglm_backend.errors import DamagedFile, UnsupportedFamily
from chatglm_backend.models.config_values import eps, no_number, number, short, size, stop_ids, token_id
from chatglm_backend.sentences import Sentence

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm4"]

# GLM-4 kept ChatGLM2's config keys; its vocabulary tells it apart, or ends of which none is ChatGLM2's.
_GLM4_VOCAB = 150_000
# transformers' own layouts of GLM-4 and GLM-Edge, and of GLM-4-0414.
_GLM_TYPES = ("glm", "glm4")

# Of relatives that we cannot compute: VisualGLM, GLM-4V and GLM-Edge-V; GLM-4.5 and later.
_PICTURES = ("vision_config", "image_length", "boi_token_id")
_EXPERTS = ("n_routed_experts", "num_experts")

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
# The longest context that a model of the family was trained on with the plain base.
_MOST_PLAIN_CONTEXT = 32_768
# GLM-4's variant for a million tokens has 10000, the most of all.
_MOST_ROPE_RATIO = 1 << 16
_MOST_ROPE_BASE = _ROPE_BASE * _MOST_ROPE_RATIO

_END_OF_TEXT = 2
# With ChatGLM3's roles; GLM-4's ends are all in its config.
_FAMILY_ENDS: Mapping[Family, tuple[int, ...]] = {
    "chatglm2": (_END_OF_TEXT,),
    "chatglm3": (_END_OF_TEXT, 64795, 64797),
    "glm4": (),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and special ids of one checkpoint. Lengths are in tokens.

    ``gmask_id``, ``mask_id`` and ``bos_id`` are ChatGLM-6B's and ``None`` for the other families,
    whose positions do not depend on special ids. Rotary frequencies are powers of ``rope_base``; positions are
    divided by ``rope_divisor`` first, and turn ``rotary_share`` of a head. ``post_norms`` are GLM-4-0414's, on what
    attention and MLP give.
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
    rotary_share: float = 0.5
    qkv_bias: bool = True
    post_norms: bool = False
    tied: bool = False

    @property
    def rotary_dim(self) -> int:
        """How many features of a head turn by its position."""
        return int(self.head_dim * self.rotary_share)

    @property
    def ties_output(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.tied or self.family == "chatglm"

    @staticmethod
    def from_json(config: Mapping[str, object], *, family: Family, path: str = "") -> ModelConfig:
        """Read a parsed config.json as one family's; ``path`` is named in errors.

        Raises UnsupportedFamily for other models and DamagedFile for unusable values.
        """
        where = path or "config.json"
        if family not in families_of(config):
            raise UnsupportedFamily(path=where, found=_other_model(config, family))
        if family == "chatglm":
            return _first(config, where)
        return _second(config, family, where) if "padded_vocab_size" in config else _glm(config, where)


def families_of(config: Mapping[str, object]) -> tuple[Family, ...]:
    """The families whose keys the config has: ChatGLM2 and ChatGLM3 share theirs, another model has none."""
    if _has(config, (*_PICTURES, *_EXPERTS)):
        return ()
    if config.get("model_type") in _GLM_TYPES:
        return ("glm4",)
    first: tuple[Family, ...] = ("chatglm",) if "inner_hidden_size" in config else ()
    if "padded_vocab_size" not in config:
        return first
    vocab, ends = config["padded_vocab_size"], config.get("eos_token_id")
    larger = isinstance(vocab, int) and vocab >= _GLM4_VOCAB
    if larger or (isinstance(ends, list) and _END_OF_TEXT not in ends):
        return (*first, "glm4")
    return (*first, "chatglm2", "chatglm3")


def family_named_in(text: str) -> Family | None:
    """The family that a hub id or a folder's name mentions, if it mentions one; folders above it do not count."""
    last = text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    families: dict[str, Family] = {
        "chatglm3": "chatglm3",
        "chatglm2": "chatglm2",
        "codegeex2": "chatglm2",
        "chatglm-6b": "chatglm",
        "glm-4": "glm4",
        "glm4": "glm4",
        "glm-edge": "glm4",
    }
    return next((family for name, family in families.items() if name in last), None)


def what_config_names(config: Mapping[str, object]) -> Sentence:
    """The model that a config of none of the families names."""
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    found = Sentence("found.model", model=short(named)) if named else Sentence("found.nothing")
    if _has(config, _PICTURES):
        return Sentence("found.pictures", found=found)
    return Sentence("found.experts", found=found) if _has(config, _EXPERTS) else found


def _has(config: Mapping[str, object], keys: tuple[str, ...]) -> bool:
    return any(config.get(key) is not None for key in keys)


def _first(config: Mapping[str, object], path: str) -> ModelConfig:
    if config.get("position_encoding_2d", True) is not True:
        raise UnsupportedFamily(path=path, found=Sentence("found.positions"))
    hidden, heads = size(config, "hidden_size", path), size(config, "num_attention_heads", path)
    if hidden % (4 * heads):
        raise DamagedFile(path=path, reason=Sentence("config.heads"))
    vocab = size(config, "vocab_size", path)
    bos = token_id(config, "bos_token_id", path, vocab)
    return ModelConfig(
        family="chatglm",
        num_layers=size(config, "num_layers", path),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_hidden_size=size(config, "inner_hidden_size", path),
        vocab_size=vocab,
        context_limit=size(config, "max_sequence_length", path, default=2048),
        layernorm_eps=eps(config, "layernorm_epsilon", path),
        # <eop> lies behind <sop> and ends every answer, also where an export names another id.
        stop_ids=_distinct(bos + 1, *stop_ids(config, path)),
        # The oldest configs leave these out; they always lie this far in front of <sop>.
        gmask_id=token_id(config, "gmask_token_id", path, vocab, default=bos - 3),
        mask_id=token_id(config, "mask_token_id", path, vocab, default=bos - 4),
        bos_id=bos,
    )


def _second(config: Mapping[str, object], family: Family, path: str) -> ModelConfig:
    ratio = _rope_ratio(config, path)
    for key, expected in _V2_REQUIRED.items():
        found = config.get(key, expected)
        if found is not expected:
            raise UnsupportedFamily(path=path, found=Sentence("found.variant", key=key, value=short(found)))
    heads = size(config, "num_attention_heads", path)
    grouped = config.get("multi_query_attention", True) is True
    kv_heads = size(config, "multi_query_group_num", path) if grouped else heads
    head_dim = size(config, "kv_channels", path)
    if heads % kv_heads or head_dim % 4:
        raise DamagedFile(path=path, reason=Sentence("config.groups"))
    context = size(config, "seq_length", path)
    if family == "glm4" and ratio == 1:
        _refuse_plain_base(context, "seq_length", "rope_ratio", 1, 500, path)
    return ModelConfig(
        family=family,
        num_layers=size(config, "num_layers", path),
        hidden_size=size(config, "hidden_size", path),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=size(config, "ffn_hidden_size", path),
        vocab_size=size(config, "padded_vocab_size", path),
        context_limit=context,
        layernorm_eps=eps(config, "layernorm_epsilon", path),
        stop_ids=_distinct(*_FAMILY_ENDS[family], *stop_ids(config, path)),
        # ChatGLM2-6B-32k squeezes its positions, later families turn more slowly: one field, two meanings.
        rope_base=_ROPE_BASE * (1 if family == "chatglm2" else ratio),
        rope_divisor=ratio if family == "chatglm2" else 1,
    )


def _glm(config: Mapping[str, object], path: str) -> ModelConfig:
    """The keys of transformers, with the rotary ones flat or in ``rope_parameters``."""
    nested = config.get("rope_parameters")
    rope = {**config, **nested} if isinstance(nested, dict) else config
    usual = (("hidden_act", "silu"), ("rope_scaling", None), ("rope_type", "default"), ("mlp_bias", False))
    for key, expected in usual:
        found = rope.get(key, expected)
        if found not in (expected, None):
            raise UnsupportedFamily(path=path, found=Sentence("found.variant", key=key, value=short(found)))
    heads, hidden = size(config, "num_attention_heads", path), size(config, "hidden_size", path)
    kv_heads = size(config, "num_key_value_heads", path, default=heads)
    head_dim = size(config, "head_dim", path, default=hidden // heads)
    share = number(rope.get("partial_rotary_factor", 0.5), "partial_rotary_factor", path, 0, 1)
    if heads % kv_heads:
        raise DamagedFile(path=path, reason=Sentence("config.groups"))
    if int(head_dim * share) % 2 or int(head_dim * share) == 0:
        raise no_number(share, "partial_rotary_factor", path, 0, 1)
    context = size(config, "max_position_embeddings", path)
    base = number(rope.get("rope_theta", _ROPE_BASE), "rope_theta", path, 1, _MOST_ROPE_BASE)
    if base <= _ROPE_BASE:
        _refuse_plain_base(context, "max_position_embeddings", "rope_theta", base, 500 * _ROPE_BASE, path)
    return ModelConfig(
        family="glm4",
        num_layers=size(config, "num_hidden_layers", path),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=size(config, "intermediate_size", path),
        vocab_size=size(config, "vocab_size", path),
        context_limit=context,
        layernorm_eps=eps(config, "rms_norm_eps", path),
        stop_ids=_distinct(*stop_ids(config, path)),
        rope_base=base,
        rotary_share=share,
        qkv_bias=config.get("attention_bias", True) is True,
        post_norms=config.get("model_type") == "glm4",
        tied=config.get("tie_word_embeddings", False) is True,
    )


def _refuse_plain_base(context: int, positions: str, turning: str, found: float, usual: int, path: str) -> None:
    """Raise UnsupportedFamily where so long a context contradicts rotary positions for a short one."""
    if context > _MOST_PLAIN_CONTEXT:
        said = {"positions": positions, "context": context, "turning": turning, "found": f"{found:g}", "usual": usual}
        raise UnsupportedFamily(path=path, found=Sentence("found.rope_pair", **said))


def _rope_ratio(config: Mapping[str, object], path: str) -> float:
    """How far beyond its training a model reads; 1 for the usual ones. Fields that say it otherwise are refused."""
    for key, usual in (("rope_theta", _ROPE_BASE), ("rope_scaling", None)):
        found = config.get(key)
        if found not in (None, usual):
            raise UnsupportedFamily(path=path, found=Sentence("found.variant", key=key, value=short(found)))
    found = config.get("rope_ratio")
    return 1 if found is None else number(found, "rope_ratio", path, 1, _MOST_ROPE_RATIO)


def _other_model(config: Mapping[str, object], asked: Family) -> Sentence:
    found = families_of(config)
    return Sentence("found.other_family", found="/".join(found), asked=asked) if found else what_config_names(config)


def _distinct(*ids: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))
