"""What an example is, and the small helpers that both example makers share."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tools.demo_model.sums import result
from tools.demo_model.tables import Topic, read_data, read_tables

LANGUAGES = ("zh", "en")
EVALUATION_SETS = ("evaluation_set", "evaluation_set_2", "evaluation_set_3", "evaluation_set_4")
Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn: ``turns`` are (question, answer); only the last answer is learnt."""

    group: str
    turns: tuple[Turn, ...]


def single(group: str, question: str, answer: str) -> Example:
    """An example of one turn."""
    return Example(group, ((question, answer),))


def normalise(text: str) -> str:
    """A prompt without case, width, spaces and punctuation; the signs of sums stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in text if c in "+-*×=/" or not unicodedata.category(c).startswith(("P", "Z", "C")))


def key(questions: Sequence[str]) -> str:
    """The identity of a conversation's prompts for keeping the two sets apart."""
    return "\n".join(normalise(question) for question in questions)


def read_evaluation(name: str) -> list[dict[str, object]]:
    """The items of one of ``EVALUATION_SETS``."""
    return list(read_data(name)["items"])


def read_talks() -> list[dict[str, Any]]:
    """The evaluation conversations: ``id`` and ``turns``, each with ``question`` and what is graded."""
    return list(read_data("conversations")["conversations"])


def talk_keys() -> frozenset[str]:
    """The keys of the evaluation conversations' questions, each alone and with the one before it."""
    asked = [[turn["question"] for turn in talk["turns"]] for talk in read_talks()]
    return frozenset(key(part) for each in asked for part in (*([question] for question in each), *pairwise(each)))


def evaluation_keys() -> frozenset[str]:
    """The keys of all prompts of all evaluation sets and conversations."""
    return talk_keys() | {key(item["turns"]) for name in EVALUATION_SETS for item in read_evaluation(name)}  # type: ignore[arg-type]


def topic_questions(topic: Topic, language: str, rng: random.Random) -> list[str]:
    """Questions for one topic in one language: all written ones, and each term in the usual and some other forms."""
    forms = read_tables().forms["term"][language]
    chosen = [form.format(t=t) for t in topic.terms.get(language, []) for form in forms[:4] + rng.sample(forms[4:], 12)]
    return chosen + topic.questions[language]


def sum_answer(a: int, sign: str, b: int, language: str) -> str:
    """The answer to a sum with its working, every step a copy or a sum of single digits.

    Naming only tens and ones before the result left the ones wrong in most unseen sums: the digits to add
    lay at a different distance in every question. Written out, they stand side by side.
    """
    value = result(a, sign, b)
    words = read_tables().working[language]
    if sign == "*":
        return words["*"].format(a=a, b=b, low=min(a, b), high=max(a, b), value=value)
    whole = f"{a}{sign}{b}"
    if sign == "-" and a < b:
        whole, a, b = f"{whole}=-({b}-{a})", b, a
    (tens, ones), (other_tens, other_ones) = divmod(a, 10), divmod(b, 10)
    if sign == "+":
        first = f"{ones}+{other_ones}={ones + other_ones}"
        carry = (ones + other_ones) // 10
        second = f"{tens}+{other_tens}{'+1' * carry}={tens + other_tens + carry}"
    else:
        carry = int(ones < other_ones)
        top = ones + 10 * carry
        first = f"{top}-{other_ones}={top - other_ones}"
        second = f"{tens}-{other_tens}{'-1' * carry}={tens - other_tens - carry}"
    noted = words[sign] if carry else ""
    return words["form"].format(whole=whole, first=first, noted=noted, second=second, value=value)


def common_character(rng: random.Random) -> str:
    """One of the 3755 common characters of GB 2312's first level."""
    while True:
        code = bytes([rng.randint(0xB0, 0xD7), rng.randint(0xA1, 0xFE)])
        try:
            return code.decode("gb2312")
        except UnicodeDecodeError:
            continue
