"""Which family a folder's tokenizer belongs to, and why.

ChatGLM2 and ChatGLM3 share their vocabulary: names and the text of the authors' tokenizer
source tell them apart. That source is read as text and never run.
"""

from __future__ import annotations

import re
from pathlib import Path

from chatglm_backend.errors import ConfigError, MissingFile
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.base import Family
from chatglm_backend.tokenizers.chatglm import MODEL_FILE as V1_FILE
from chatglm_backend.tokenizers.chatglm2 import MODEL_FILE as V2_FILE

_SOURCE = "tokenization_chatglm.py"
_NUMBERED = re.compile(r"chatglm([23])(?!\d)")


def detect_family(folder: Path) -> tuple[Family, str]:
    """Return the family of a folder with a tokenizer, and what gave it away.

    Raises :class:`MissingFile` without a tokenizer and :class:`ConfigError` when nothing tells 2 from 3.
    """
    if (folder / V1_FILE).is_file():
        return "chatglm", f"it holds {V1_FILE}"
    if not (folder / V2_FILE).is_file():
        raise MissingFile(path=str(folder / V2_FILE))
    config = read_json(folder / "config.json", optional=True)
    details = read_json(folder / "tokenizer_config.json", optional=True)
    names = (config.get("_name_or_path"), details.get("name_or_path"), folder.resolve().name)
    for name in names:
        found = _NUMBERED.search(str(name).lower())
        if found:
            return ("chatglm3" if found[1] == "3" else "chatglm2"), f"its name is {name}"
    source = folder / _SOURCE
    if source.is_file():
        if "<|user|>" in source.read_text(encoding="utf-8", errors="replace"):
            return "chatglm3", f"{_SOURCE} knows role tokens"
        return "chatglm2", f"{_SOURCE} knows no role tokens"
    raise ConfigError(
        name="family", value="guessed", reason=f"{folder} names neither ChatGLM2 nor ChatGLM3, so give it"
    )
