"""Makes the training corpus from the tables and templates; run as ``python -m tools.demo_model.corpus``.

Writes ``out/corpus.jsonl``: one example a line, ``{"group", "turns": [[question, answer], ...]}``.
Deterministic. Leaves out every prompt of the evaluation set and every held-out sum.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.demo_model.conversations import Conversations
from tools.demo_model.examples import Example, evaluation_keys, key
from tools.demo_model.tables import HERE

OUT = HERE / "out"
SEED = 6


class Corpus(Conversations):
    """All groups together, without the evaluation set."""

    def __init__(self, seed: int = SEED) -> None:
        super().__init__(seed)

    def build(self) -> list[Example]:
        """All examples, evaluation prompts left out."""
        forbidden = evaluation_keys()
        singles = [*self.explained(), *self.geography(), *self.dictionary(), *self.strangers(), *self.lone_names()]
        self._singles = [e for e in singles if key([q for q, _ in e.turns]) not in forbidden]
        examples = [*self._singles, *self.arithmetic(), *self.conversations()]
        seen: set[tuple[str, str]] = set()
        kept = []
        for example in examples:
            identity = (example.group, key([q for q, _ in example.turns]))
            if identity[1] not in forbidden and identity not in seen:
                seen.add(identity)
                kept.append(example)
        return kept


def main() -> None:
    """Write the corpus and say how large each group is."""
    OUT.mkdir(exist_ok=True)
    examples = Corpus().build()
    lines = [json.dumps({"group": e.group, "turns": e.turns}, ensure_ascii=False) for e in examples]
    Path(OUT / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.group] = counts.get(example.group, 0) + 1
    print(len(examples), counts)


if __name__ == "__main__":
    main()
