"""The demonstration model's corpus and evaluation sets: kept apart, complete, deterministic."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from tools.demo_model.corpus import Corpus
from tools.demo_model.examples import (
    EVALUATION_SETS,
    Example,
    evaluation_keys,
    key,
    read_evaluation,
    read_talks,
    talk_keys,
)
from tools.demo_model.sums import all_sums, held_out, result
from tools.demo_model.tables import read_tables

_SIGNS = {
    "加上": "+", "加": "+", "plus": "+", "减去": "-", "减": "-", "minus": "-", "乘以": "*", "乘": "*", "times": "*",
    "×": "*", "x": "*",
}  # fmt: skip
_WORDS = re.compile(rf"(?<=\d)\s*({'|'.join(_SIGNS)})\s*(?=\d)")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """The whole corpus."""
    return Corpus().build()


@pytest.fixture(scope="module")
def texts(examples: list[Example]) -> set[str]:
    """Each question and answer of it once."""
    return {text for example in examples for turn in example.turns for text in turn}


def sums_in(text: str) -> set[tuple[int, str, int]]:
    """The sums written in a text, in signs or words."""
    text = _WORDS.sub(lambda word: _SIGNS[word[1]], text)
    found = re.finditer(r"(?<![\d.+\-*])(\d+)\s*([+\-*])\s*(\d+)(?![\d.])", text)
    return {(int(m[1]), m[2], int(m[3])) for m in found}


def test_no_prompt_is_in_both_sets(examples: list[Example]) -> None:
    """No normalised prompt of an evaluation set is trained on."""
    trained = {key([question for question, _ in example.turns]) for example in examples}
    assert set() == trained & evaluation_keys()


def without_working(text: str) -> str:
    """An answer without its steps: sums of single digits, and the product as the times table has it."""
    return re.sub(r"(个位|ones |口诀|table )\d+[+×-]\d.*?(?=结果|the result)", "", text)


def test_no_held_out_sum_is_in_the_corpus(texts: set[str]) -> None:
    """No question and no answer, follow-ups included, holds a held-out sum outside the steps of another one."""
    seen = {s for text in texts for s in sums_in(without_working(text))}
    assert sorted(s for s in seen & set(all_sums()) if held_out(*s)) == []


def test_working_holds_only_sums_of_single_digits(examples: list[Example]) -> None:
    """What the test above leaves out cannot hold a two-digit sum that is evaluated."""
    answers = {example.turns[-1][1] for example in examples if example.group == "sum"}
    whole = {answer: sums_in(without_working(answer)) for answer in answers}
    steps = {s for answer in answers for s in sums_in(answer) - whole[answer]}
    assert steps
    assert all(a <= 18 and b <= 9 for a, _, b in steps)


def test_the_search_for_sums_finds_them(texts: set[str]) -> None:
    """The test above would notice: it finds nearly every sum that is trained on, written in all ways."""
    seen = {s for text in texts for s in sums_in(text)}
    trained = {s for s in all_sums() if not held_out(*s)}
    assert trained <= seen


@pytest.mark.parametrize("operator", ["+", "-", "*"])
def test_at_least_a_fifth_of_all_sums_is_held_out(operator: str) -> None:
    """Of each kind of sum, 20 % or more are never trained on."""
    sums = [s for s in all_sums() if s[1] == operator]
    assert sum(held_out(*s) for s in sums) >= 0.2 * len(sums)


@pytest.mark.parametrize("name", EVALUATION_SETS)
def test_the_evaluated_sums_are_held_out(name: str) -> None:
    """The numbers of each sum of a set, written in any words, give its result by a held-out sum only."""
    for item in read_evaluation(name):
        if item["ability"] == "sums":
            found = sums_giving(item["turns"][0], item["must_contain"][0])  # type: ignore[index]
            assert found, item["id"]
            assert all(held_out(*s) for s in found), item["id"]


def sums_giving(text: str, value: str) -> list[tuple[int, str, int]]:
    """The sums of a text's two numbers that give ``value``, in the order of the text if there is one."""
    a, b = map(int, re.findall(r"\d+", text))
    orders = [[(x, sign, y) for sign in "+-*" if str(result(x, sign, y)) == value] for x, y in ((a, b), (b, a))]
    return orders[0] or orders[1]


def test_no_prompt_is_in_two_evaluation_sets() -> None:
    """Every normalised prompt of the evaluation sets is asked once, and none of them in a conversation."""
    prompts = [key(item["turns"]) for name in EVALUATION_SETS for item in read_evaluation(name)]  # type: ignore[arg-type]
    assert len(set(prompts)) == len(prompts)
    assert set(prompts) & talk_keys() == set()
    assert evaluation_keys() == set(prompts) | talk_keys()


def test_the_evaluation_conversations() -> None:
    """At least 24 of twelve turns each, each with something to check, sums held out; questions and pairs are keys."""
    talks = [talk["turns"] for talk in read_talks()]
    assert len(talks) >= 24
    assert {len(turns) for turns in talks} == {12}
    assert all(turn["must_contain"] for turns in talks for turn in turns)
    for turn in (turn for turns in talks for turn in turns if turn["ability"] == "sums"):
        found = sums_giving(turn["question"], turn["must_contain"][0])
        assert found
        assert all(held_out(*s) for s in found), turn
    first, second = (turn["question"] for turn in talks[0][:2])
    assert {key([first]), key([second]), key([first, second])} <= talk_keys()


def test_held_out_names_are_not_in_the_corpus(examples: list[Example]) -> None:
    """Names of the evaluation set's conversations appear in no training answer."""
    names = read_tables().names
    held = {f"你叫{name}。" for name in names["zhheld"]} | {f"Your name is {name}." for name in names["enheld"]}
    assert set() == held & {answer for example in examples for _, answer in example.turns}


@pytest.mark.parametrize("name", EVALUATION_SETS)
def test_an_evaluation_set_covers_all_abilities(name: str) -> None:
    """At least 300 prompts, each with something to check, over eight abilities."""
    items = read_evaluation(name)
    assert len(items) >= 300
    assert all(item["must_contain"] for item in items)
    expected = {"paraphrase", "self", "capitals", "facts", "words", "sums", "unknown", "follow-up"}
    assert expected == set(Counter(str(item["ability"]) for item in items))


def test_the_corpus_is_the_same_each_time(examples: list[Example]) -> None:
    """The bundled model's own corpus, whatever the hash seed of this process and however its tables are kept."""
    whole = ({"group": example.group, "turns": example.turns} for example in examples)
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in whole)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (len(examples), digest) == (285240, "9620188cf567258af55f100cfb025c6cfcb4de846f90b36a1bcf3e9f47ae7950")
