"""The tables of the comparison with peers, on systems whose figures are known."""

from __future__ import annotations

from typing import Any

from benchmarks.side_by_side.tables import model_table, product_table


class Known:
    """Answers with fixed figures, and notes in a shared log that it was asked."""

    def __init__(self, name: str, log: list[str], **figures: Any) -> None:
        self.name, self._log, self._figures = name, log, figures

    def ask(self, **order: int) -> dict[str, Any]:
        """The same figures every time."""
        del order
        self._log.append(self.name)
        return self._figures


def cells(line: str) -> list[str]:
    """The cells of a Markdown row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_systems_take_turns() -> None:
    """After one warm-up each, every round asks every system once."""
    log: list[str] = []
    systems = [Known(name, log, ttft_s=1.0, decode_tok_s=2.0) for name in ("ours", "peer")]
    list(model_table(systems, [32], 8, 3))
    assert log == ["ours", "peer"] * 4


def test_ratios_are_ours_over_theirs() -> None:
    """Half the time and three times the speed of the peer."""
    log: list[str] = []
    systems = [
        Known("ours", log, ttft_s=1.0, decode_tok_s=9.0),
        Known("peer", log, ttft_s=2.0, decode_tok_s=3.0),
    ]
    rows = [cells(line) for line in model_table(systems, [64], 8, 3)][2:]
    assert [row[3] for row in rows] == ["1.00", "0.50"]
    assert [row[6] for row in rows] == ["1.00", "3.00"]


def test_products_are_compared_by_rows() -> None:
    """Medians over all matrices and rounds; 2e9 operations a row in 2 ms are 1000 GFLOP/s."""
    systems = [Known("ours", [], seconds=[0.002, 0.002, 0.9]), Known("OpenVINO", [], seconds=[0.004])]
    rows = [cells(line) for line in product_table(systems, [1], 2_000_000_000, 2)][2:]
    assert [row[2:5] for row in rows] == [["2.00", "1000", "1.00×"], ["4.00", "500", "2.00×"]]
