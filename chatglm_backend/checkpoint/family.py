"""Which family a folder is of, from the strongest evidence there is, and why.

The user's word, then the tensors' names, the config's keys, the tokenizer that lies in the folder, and last
the model's own name. Code that comes with a checkpoint is read as text, never run; the names of folders
above it tell nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.errors import ConfigError, MissingFile, UnsupportedFamily
from chatglm_backend.models.config import Family, families_of, family_named_in, what_config_names
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

_FIRST: tuple[Family, ...] = ("chatglm",)
_LATER: tuple[Family, ...] = ("chatglm2", "chatglm3")
_GLM4: tuple[Family, ...] = ("glm4",)
_SOURCE = "tokenization_chatglm.py"
# Where a tokenizer that was saved again may name the role tokens.
_TOKENIZER_TEXTS = (_SOURCE, "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
# The vocabularies, and the config key that belongs to each.
_VOCABULARIES = {"ice_text.model": "inner_hidden_size", "tokenizer.model": "padded_vocab_size"}
_MAX_TEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """A family and why; ``assumed`` where nothing tells ChatGLM2 from ChatGLM3."""

    family: Family
    reason: Sentence
    assumed: bool = False


def choose_family(
    folder: Path,
    config: Mapping[str, object],
    *,
    tensors: Collection[str] = (),
    asked: Family | None = None,
    name: str | None = None,
) -> Choice:
    """Decide for a family. ``name`` is what the model is called, its hub id if it has one.

    Raises UnsupportedFamily where the tensors or the config rule out what was asked, name another model, or mean
    different things in the two families that it may be.
    """
    by_tensors = _told_by_tensors(tensors)
    by_keys = families_of(config)
    possible = tuple(family for family in by_tensors if family in by_keys) or by_tensors or by_keys
    if asked:
        if possible and asked not in possible:
            found = Sentence("found.other_family", found="/".join(possible), asked=asked)
            raise UnsupportedFamily(path=folder, found=found)
        return Choice(asked, Sentence("family.asked"))
    if not possible:
        raise UnsupportedFamily(path=folder, found=what_config_names(config))
    if possible == _FIRST:
        return Choice("chatglm", Sentence("family.tensors") if by_tensors else Sentence("family.keys"))
    if possible == _GLM4:
        if re.fullmatch(r"glm-4-9b(-hf|-base)?", (name or "").lower().rpartition("/")[2]):
            raise UnsupportedFamily(path=folder, found=Sentence("found.base", name=name))
        return Choice("glm4", Sentence("family.glm4_keys"))
    return _second_or_third(folder, config, name)


def tokenizer_family(folder: Path, asked: Family | None) -> Choice:
    """Decide for a folder that may hold a tokenizer alone.

    Raises MissingFile without a tokenizer, ConfigError where nothing tells ChatGLM2 from ChatGLM3.
    """
    config = read_json(folder / "config.json", optional=True)
    if not families_of(config):
        vocabulary = next((name for name in _VOCABULARIES if (folder / name).is_file()), None)
        if (folder / "tokenizer.json").is_file() or _holds_ranks(folder / "tokenizer.model"):
            config = {**config, "model_type": "glm"}
        elif vocabulary is None:
            raise MissingFile(path=folder / "tokenizer.model")
        else:
            config = {**config, _VOCABULARIES[vocabulary]: 0}
    choice = choose_family(folder, config, asked=asked, name=folder.resolve().name)
    if choice.assumed:
        raise ConfigError(name="family", value="auto", reason=choice.reason)
    return choice


def _second_or_third(folder: Path, config: Mapping[str, object], name: str | None) -> Choice:
    for file in _TOKENIZER_TEXTS:
        text = _small_text(folder / file)
        if b"<|user|>" in text:
            return Choice("chatglm3", Sentence("family.source_roles", file=file))
        if file == _SOURCE and text:
            return Choice("chatglm2", Sentence("family.source_no_roles", file=file))
    origin = str(config.get("_name_or_path", ""))[:200]
    for called, reason in (
        (origin, Sentence("family.config", name=origin)),
        (name or "", Sentence("family.name", name=name)),
    ):
        named = family_named_in(called)
        if named in _LATER:
            return Choice(named, reason)
    if (ratio := config.get("rope_ratio")) not in (None, 1):
        raise UnsupportedFamily(path=folder, found=Sentence("found.rope_ratio", value=str(ratio)[:20]))
    return Choice("chatglm2", Sentence("family.assumed"), assumed=True)


def _told_by_tensors(names: Collection[str]) -> tuple[Family, ...]:
    first = any(name.startswith(("transformer.word_embeddings.", "transformer.layers.")) for name in names)
    later = any(name.startswith(("transformer.embedding.", "transformer.encoder.")) for name in names)
    return () if first == later else _FIRST if first else (*_LATER, *_GLM4)


def _holds_ranks(path: Path) -> bool:
    """Whether it is GLM-4's text of tokens and ranks; a sentencepiece model begins with a line break."""
    return _small_text(path)[:1] not in (b"", b"\n")


def _small_text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT)
    except OSError:
        return b""
