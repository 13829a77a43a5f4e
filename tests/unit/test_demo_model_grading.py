"""The grading rules: what counts as right."""

from __future__ import annotations

import pytest

from tools.demo_model.grading import last_number, passes, right


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ("62", ["37+25=62", "37 + 25 = 62."], ["37+25=620", "37+25=162", "37+25=-62", "37+25=6"]),
        ("-15", ["37-52=-15"], ["37-52=15"]),
        ("Git LFS 拉取：“好”", ['git lfs拉取:"好"'], []),
        ("Paris", ["Paris."], ["Paris? Sorry, I do not know that."]),
    ],
    ids=["no part of another number", "with its sign", "case, width, spaces and quotes", "no refusal"],
)
def test_what_counts_as_right(wanted: str, right: list[str], wrong: list[str]) -> None:
    """Numbers are whole and keep their sign, how a text is written does not matter, and a refusal is wrong."""
    item = {"must_contain": [wanted], "must_not_contain": ["do not know that"]}
    assert [passes(item, answer) for answer in (*right, *wrong)] == [True] * len(right) + [False] * len(wrong)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("37+25: tens 5, ones 12, the result is 62.", "62"),
        ("12-45：十位-3，个位-3，结果是-33。", "-33"),
        ("37-25=12", "12"),
        ("no number", None),
    ],
)
def test_the_result_of_a_sum_is_its_last_number(answer: str, number: str | None) -> None:
    """Tens and ones named on the way do not count."""
    assert number == last_number(answer)


@pytest.mark.parametrize(("ability", "expected"), [("sums", False), ("follow-up", True)])
def test_a_sum_must_end_with_its_result(ability: str, expected: bool) -> None:
    """A result that is only named on the way is not right where a sum is asked for."""
    item = {"ability": ability, "must_contain": ["12"], "must_not_contain": []}
    assert right(item, "7+45: ones 7+5=12 carry 1, tens 0+4+1=5, the result is 53.") is expected
    assert right(item, "7+5: ones 7+5=12, the result is 12.")
