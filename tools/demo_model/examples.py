"""What an example is, and the small helpers that both example makers share."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tools.demo_model import templates as tp
from tools.demo_model.sums import result
from tools.demo_model.tables import HERE, Topic

LANGUAGES = ("zh", "en")
Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn: ``turns`` are (question, answer); only the last answer is learnt."""

    group: str
    turns: tuple[Turn, ...]


def normalise(text: str) -> str:
    """A prompt without case, width, spaces and punctuation; the signs of sums stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in text if c in "+-*×=/" or not unicodedata.category(c).startswith(("P", "Z", "C")))


def key(questions: Sequence[str]) -> str:
    """The identity of a conversation's prompts for keeping the two sets apart."""
    return "\n".join(normalise(question) for question in questions)


def read_evaluation() -> list[dict[str, object]]:
    """The items of the evaluation set."""
    data = json.loads((HERE / "evaluation_set.json").read_text(encoding="utf-8"))
    return list(data["items"])


def evaluation_keys() -> frozenset[str]:
    """The keys of all evaluation prompts."""
    return frozenset(key(item["turns"]) for item in read_evaluation())  # type: ignore[arg-type]


def topic_questions(topic: Topic, language: str) -> list[str]:
    """Every question for one topic in one language."""
    questions = [form.format(t=t) for t in topic.terms.get(language, []) for form in tp.forms(tp.TERM, language)]
    wraps = sorted(set(tp.forms(tp.WRAP, language)))
    return questions + [wrap.format(q=q) for q in topic.questions[language] for wrap in wraps]


def sum_answer(a: int, sign: str, b: int, language: str) -> str:
    """The answer to a sum; addition and subtraction name tens and ones first, which is far easier to learn."""
    value = result(a, sign, b)
    if sign == "*":
        return f"{a}×{b}={value}"
    tens, ones = result(a // 10, sign, b // 10), result(a % 10, sign, b % 10)
    if language == "zh":
        return f"{a}{sign}{b}：十位{tens}，个位{ones}，结果是{value}。"
    return f"{a}{sign}{b}: tens {tens}, ones {ones}, the result is {value}."


def common_character(rng: random.Random) -> str:
    """One of the 3755 common characters of GB 2312's first level."""
    while True:
        code = bytes([rng.randint(0xB0, 0xD7), rng.randint(0xA1, 0xFE)])
        try:
            return code.decode("gb2312")
        except UnicodeDecodeError:
            continue
