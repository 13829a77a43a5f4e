"""Byte-level vocabularies, read with the ``tokenizers`` package: tokenizer.json, or a tiktoken file of GLM-4's authors.

Added tokens are taken out before the package sees them, so that no text becomes one. Runs no code of a folder.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatglm_backend.errors import CheckpointError, DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import is_lfs_pointer, read_json

if TYPE_CHECKING:
    import tokenizers

    from chatglm_backend.tokenizers.streaming import LeadingSpace

_FILE: Final = "tokenizer.json"
_RANKS_FILE: Final = "tokenizer.model"
# What GLM-4's authors put behind the ranks, in this order.
_BEHIND_RANKS: Final = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Added:
    """A token beside the vocabulary; a ``special`` one steers the model and is not shown."""

    token_id: int
    special: bool = True


class ByteLevelVocabulary:
    """A vocabulary whose pieces are bytes, with the tokens that were ``added`` to it by name."""

    leading: LeadingSpace = "keep"
    unknown = ""

    def __init__(self, tokenizer: tokenizers.Tokenizer, added: Mapping[str, Added]) -> None:
        self._tokenizer = tokenizer
        self._names = {one.token_id: name for name, one in added.items()}
        self.added = added
        self.size = 1 + max([tokenizer.get_vocab_size() - 1, *self._names])

    def encode(self, text: str) -> list[int]:
        """The ids of a text: none of an added token."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def is_control(self, piece: int) -> bool:
        """Whether the piece decodes to nothing."""
        name = self._names.get(piece)
        return self.byte(piece) is None if name is None else self.added[name].special

    def byte(self, piece: int) -> bytes | None:
        """The bytes of a piece; ``None`` for an added token and an id without one."""
        written = None if piece in self._names else self._tokenizer.id_to_token(piece)
        return None if written is None else bytes(_byte_of()[character] for character in written)

    def text(self, piece: int) -> str:
        """The name of an added token."""
        return self._names.get(piece, "")

    def is_unknown(self, piece: int) -> bool:  # noqa: ARG002
        """Whether the piece stands for what the vocabulary cannot spell: it spells everything."""
        return False


def read_byte_level(folder: Path) -> ByteLevelVocabulary:
    """A folder's vocabulary; tokenizer.json before the authors' file.

    Raises MissingFile, LfsPointerFile or DamagedFile.
    """
    path = folder / _FILE
    return _from_json(path) if path.is_file() else _from_ranks(folder / _RANKS_FILE)


def _from_json(path: Path) -> ByteLevelVocabulary:
    import tokenizers

    content = read_json(path)
    try:
        entries = content.pop("added_tokens", None) or []
        added = {str(one["content"]): Added(int(one["id"]), bool(one["special"])) for one in entries}  # type: ignore[attr-defined]
        model = content["model"]
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):  # type: ignore[attr-defined]
            raise ValueError("pieces with marks are no bytes, and can end the process within the package")
        byte_level = content["decoder"]["type"] == "ByteLevel"  # type: ignore[index]
        bare = {**content, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the package raises nothing narrower
        raise DamagedFile(path=path, reason=Sentence("file.not_byte_level")) from error
    if not byte_level:
        raise DamagedFile(path=path, reason=Sentence("file.not_byte_level"))
    return ByteLevelVocabulary(tokenizer, added)


def _from_ranks(path: Path) -> ByteLevelVocabulary:
    """Lines of a token's bytes in base64 and its rank, which says how soon a merge that makes it is made."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = _ranks(path)
    merges: list[tuple[str, str]] = []
    for token in vocabulary:
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        ways = [cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary]
        merges += sorted(ways, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]])) if len(ways) > 1 else ways
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    first = 1 + max(vocabulary.values())
    return ByteLevelVocabulary(tokenizer, {name: Added(first + at) for at, name in enumerate(_BEHIND_RANKS)})


def _ranks(path: Path) -> dict[str, int]:
    """Ranks by token, in their order; bytes are written as the package writes them."""
    try:
        if is_lfs_pointer(path):
            raise LfsPointerFile(path=path)
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except FileNotFoundError:
        raise MissingFile(path=path) from None
    except OSError as error:
        raise CheckpointError(path=path, reason=Sentence("file.not_permitted")) from error
    written = {number: ord(character) for character, number in _byte_of().items()}
    found: dict[str, int] = {}
    try:
        for line in lines:
            token, rank = line.split()
            found[base64.b64decode(token, validate=True).decode("latin-1").translate(written)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise DamagedFile(path=path, reason=Sentence("file.not_byte_level")) from error
    if not _byte_of().keys() <= found.keys() or sorted(found.values()) != list(range(len(found))):
        raise DamagedFile(path=path, reason=Sentence("file.not_byte_level"))
    return found


@cache
def _byte_of() -> Mapping[str, int]:
    """The bytes by the character that stands for each: itself where it can be seen, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {**{chr(byte): byte for byte in seen}, **{chr(0x100 + at): byte for at, byte in enumerate(others)}}
