"""What a checkpoint's config.json means to the models.

Knows the three families and refuses the rest by name. Opens no files: the caller hands in
the parsed JSON, and decides between ChatGLM2 and ChatGLM3 where the JSON does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chatglm_backend.errors import DamagedFile, UnsupportedFamily

__all__ = ["Family", "ModelConfig", "family_named_in"]

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

_V3_STOP_ROLES = (64795, 64797)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and special ids of one checkpoint. Lengths are in tokens.

    ``gmask_id``, ``mask_id`` and ``bos_id`` are ChatGLM-6B's and ``None`` for the other families,
    whose positions do not depend on special ids.
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

    @staticmethod
    def from_json(config: Mapping[str, object], *, family: Family | None = None, path: str = "") -> ModelConfig:
        """Read a parsed config.json.

        ``family`` settles ChatGLM2 or ChatGLM3 (or contradicts the JSON, which is an error);
        ``path`` is named in errors and searched for the family's name last.
        Raises UnsupportedFamily for other models and DamagedFile for unusable values.
        """
        where = path or "This folder"
        if "inner_hidden_size" in config:
            if family not in (None, "chatglm"):
                raise UnsupportedFamily(path=where, found=f"ChatGLM-6B weights, not {family}")
            return _first(config, where)
        if "padded_vocab_size" in config:
            if family == "chatglm":
                raise UnsupportedFamily(path=where, found="ChatGLM2 or ChatGLM3 weights, not chatglm")
            _refuse_relatives(config, where)
            chosen = family or family_named_in(str(config.get("_name_or_path", ""))) or family_named_in(path)
            if chosen not in ("chatglm2", "chatglm3"):
                raise UnsupportedFamily(
                    path=where, found="ChatGLM2 or ChatGLM3 weights without saying which (choose with --family)"
                )
            return _second(config, chosen, where)
        raise UnsupportedFamily(path=where, found=_describe(config))


def family_named_in(text: str) -> Family | None:
    """The family that a hub id or a folder's name mentions, if it mentions one."""
    last = text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    if "chatglm3" in last:
        return "chatglm3"
    if "chatglm2" in last:
        return "chatglm2"
    if "chatglm-6b" in last:
        return "chatglm"
    return None


def _first(config: Mapping[str, object], path: str) -> ModelConfig:
    if config.get("position_encoding_2d", True) is not True:
        raise UnsupportedFamily(path=path, found="a ChatGLM without two-dimensional positions")
    hidden, heads = _int(config, "hidden_size", path), _int(config, "num_attention_heads", path)
    if hidden % (4 * heads):
        raise DamagedFile(path=path, reason="hidden_size does not divide into heads")
    bos = _int(config, "bos_token_id", path)
    return ModelConfig(
        family="chatglm",
        num_layers=_int(config, "num_layers", path),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_hidden_size=_int(config, "inner_hidden_size", path),
        vocab_size=_int(config, "vocab_size", path),
        context_limit=_int(config, "max_sequence_length", path, default=2048),
        layernorm_eps=_eps(config, path),
        stop_ids=(_int(config, "eos_token_id", path),),
        # The oldest configs leave these out; they always lie this far in front of <sop>.
        gmask_id=_int(config, "gmask_token_id", path, default=bos - 3),
        mask_id=_int(config, "mask_token_id", path, default=bos - 4),
        bos_id=bos,
    )


def _second(config: Mapping[str, object], family: Family, path: str) -> ModelConfig:
    heads = _int(config, "num_attention_heads", path)
    grouped = config.get("multi_query_attention", True) is True
    kv_heads = _int(config, "multi_query_group_num", path) if grouped else heads
    head_dim = _int(config, "kv_channels", path)
    if heads % kv_heads or head_dim % 4:
        raise DamagedFile(path=path, reason="the attention heads do not divide into groups")
    eos = _int(config, "eos_token_id", path, default=2)
    return ModelConfig(
        family=family,
        num_layers=_int(config, "num_layers", path),
        hidden_size=_int(config, "hidden_size", path),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=_int(config, "ffn_hidden_size", path),
        vocab_size=_int(config, "padded_vocab_size", path),
        context_limit=_int(config, "seq_length", path),
        layernorm_eps=_eps(config, path),
        stop_ids=(eos, *_V3_STOP_ROLES) if family == "chatglm3" else (eos,),
    )


def _refuse_relatives(config: Mapping[str, object], path: str) -> None:
    name = str(config.get("_name_or_path", "")).lower()
    if "glm-4" in name or "glm4" in name or _int(config, "padded_vocab_size", path) >= _GLM4_VOCAB:
        raise UnsupportedFamily(path=path, found="a GLM-4 model")
    if "rope_ratio" in config:
        raise UnsupportedFamily(path=path, found="a long-context variant (its config scales positions by rope_ratio)")
    for key, expected in _V2_REQUIRED.items():
        found = config.get(key, expected)
        if found is not expected:
            raise UnsupportedFamily(path=path, found=f"a ChatGLM variant with {key} = {found}")


def _describe(config: Mapping[str, object]) -> str:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return f"a {architectures[0]} model"
    if config.get("model_type"):
        return f"a {config['model_type']} model"
    return "no model that its config.json names"


def _int(config: Mapping[str, object], key: str, path: str, *, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DamagedFile(path=path, reason=f"its config has {key} = {value!r}, not a whole number")
    return value


def _eps(config: Mapping[str, object], path: str) -> float:
    value = config.get("layernorm_epsilon", 1e-5)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise DamagedFile(path=path, reason=f"its config has layernorm_epsilon = {value!r}")
    return float(value)
