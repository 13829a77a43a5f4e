"""Trains the vocabulary ``out/ice_text.model``; run as ``python -m tools.demo_model.vocabulary``.

Same layout as ChatGLM-6B's: control pieces, whitespace pieces, byte pieces, ``nmt_nfkc``; every digit is
one token, so that sums can be learnt.
"""

from __future__ import annotations

import random

import sentencepiece

from tools.demo_model.corpus import OUT, read_corpus

VOCABULARY = 7040
CONTROL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
WHITESPACE = ["<n>", "<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81))]


def main() -> None:
    """Train on the corpus's questions and answers, each group cut to a fair share."""
    rng = random.Random(1)
    groups = ([text for turns in group for turn in turns for text in turn] for group in read_corpus().values())
    lines = [text for texts in groups for text in rng.sample(texts, min(len(texts), 12000))]
    lines += ["[Round 0]", "[Round 1]", "[Round 2]", "问：", "答：", "问：你好", "答：你好"] * 500
    lines += [chr(code) for code in range(33, 127)] * 20
    lines += common_characters()
    (OUT / "vocabulary.txt").write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(OUT / "vocabulary.txt"),
        model_prefix=str(OUT / "ice_text"),
        model_type="unigram",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=False,
        control_symbols=CONTROL,
        user_defined_symbols=WHITESPACE,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        max_sentencepiece_length=8,
        num_threads=2,
        minloglevel=2,
    )


def common_characters() -> list[str]:
    """The characters of GB 2312's first level, so that ordinary Chinese needs no byte pieces."""
    codes = (bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return [text for code in codes if (text := code.decode("gb2312", errors="ignore"))]


if __name__ == "__main__":
    main()
