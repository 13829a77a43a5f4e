"""The grading rules: what counts as right."""

from __future__ import annotations

import pytest

from tools.demo_model.grading import last_number, passes


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("37+25=62", True),
        ("37 + 25 = 62.", True),
        ("37+25=620", False),
        ("37+25=162", False),
        ("37+25=-62", False),
        ("37+25=6", False),
    ],
)
def test_numbers_are_whole(answer: str, right: bool) -> None:
    """A wanted number is not a part of another number."""
    assert right == passes({"must_contain": ["62"], "must_not_contain": []}, answer)


def test_a_negative_number_needs_its_sign() -> None:
    """-15 is wanted, 15 is not enough."""
    item = {"must_contain": ["-15"], "must_not_contain": []}
    assert passes(item, "37-52=-15")
    assert not passes(item, "37-52=15")


def test_case_width_spaces_and_quotes_do_not_matter() -> None:
    """Half-width and full-width, case, spaces and quotation marks are the same."""
    assert passes({"must_contain": ["Git LFS 拉取：“好”"], "must_not_contain": []}, 'git lfs拉取:"好"')


def test_an_unwanted_text_fails_the_answer() -> None:
    """A refusal is wrong where an answer was wanted."""
    item = {"must_contain": ["Paris"], "must_not_contain": ["do not know that"]}
    assert not passes(item, "Paris? Sorry, I do not know that.")


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
