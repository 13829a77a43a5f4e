"""A small byte-level vocabulary in both forms that GLM-4's folders have: 377 pieces and fourteen special ids.

These are the ids of the small golden models, so a golden folder with one of the two files is a whole model.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
FIRST_SPECIAL = 377
TEMPLATE = "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}<|assistant|>"
TOOLS_TEMPLATE = (  # as the authors' own: tools in a message of their own; metadata names a tool
    "[gMASK]<sop>{% for m in messages %}{% if m['tools'] is defined %}<|system|>\ntools{% for t in m['tools'] %}\n\n"
    "## {{ t['function']['name'] }}\n\n{{ t['function'] | tojson(indent=4) }}\nJSON{% endfor %}{% endif %}"
    "{% if m['content'] %}<|{{ m['role'] }}|>{{ m['metadata'] }}\n{{ m['content'] }}{% endif %}{% endfor %}"
    "<|assistant|>"
)
TOOLS_BESIDE = TOOLS_TEMPLATE.replace(
    "{% for m in messages %}{% if m['tools'] is defined %}", "{% set m = {'tools': tools} %}{% if tools %}"
).replace("{% if m['content'] %}", "{% for m in messages %}{% if m['content'] %}")
_WORDS = (
    "the", "quick", "user", "assistant", "over", "and", "system", "what", "is", "你好", "是什么", "好的", "123", "2024",
    "\'\'\'re", "!!??", "\n\n\t", "  ", "😀🎉", "<|user|>", "AI是",
)  # fmt: skip


def ranks() -> dict[bytes, int]:
    """All bytes in an order of their own, then growing parts of words, as tiktoken ranks them."""
    found = {bytes((byte * 7 % 256,)): byte for byte in range(256)}
    for length in range(2, 20):
        for word in _WORDS:
            for part in (word.encode(), b" " + word.encode()):
                for start in (0, 1):
                    piece = part[start : start + length]
                    if len(piece) == length and len(found) < FIRST_SPECIAL:
                        found.setdefault(piece, len(found))
    return found


def write_ranks(folder: Path) -> Path:
    """Write the authors' file, and return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items()]
    (folder / "tokenizer.model").write_text("".join(lines), encoding="ascii", newline="\n")
    return folder


def write_json(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Write the same vocabulary as transformers keeps it, made with the package itself, and return ``folder``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    shown = {byte: _written(byte) for byte in range(256)}
    names = {"".join(shown[byte] for byte in token): rank for token, rank in ranks().items()}
    merges = [
        (name[:at], name[at:])
        for name in sorted(names, key=names.__getitem__)
        for at in range(1, len(name))
        if name[:at] in names and name[at:] in names
    ]
    tokenizer = Tokenizer(models.BPE(names, merges))
    words = Regex(r"\p{N}{1,3}|[^\s\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    front = [(name, tokenizer.token_to_id(name)) for name in ("[gMASK]", "<sop>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=front)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    details = {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(details), encoding="utf-8")
    return folder


def _written(byte: int) -> str:
    """How byte-level vocabularies write a byte: as itself where it can be seen, else as a character from U+0100 on."""
    unseen = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
    return chr(0x100 + unseen.index(byte)) if byte in unseen else chr(byte)
