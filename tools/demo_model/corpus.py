"""Makes the training corpus from the tables and templates; run as ``python -m tools.demo_model.corpus``.

Writes ``out/corpus.jsonl``: one example a line, ``{"group", "turns": [[question, answer], ...]}``.
Deterministic. Leaves out every prompt of the evaluation set and every held-out sum.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from tools.demo_model.conversations import Conversations
from tools.demo_model.examples import Example, Turn, evaluation_keys, key
from tools.demo_model.tables import HERE

OUT = HERE / "out"
CORPUS = OUT / "corpus.jsonl"


class Corpus(Conversations):
    """All groups together, without the evaluation set."""

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


def read_corpus() -> dict[str, list[tuple[Turn, ...]]]:
    """The turns of every written example by group, in the order of the file."""
    groups: dict[str, list[tuple[Turn, ...]]] = {}
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        groups.setdefault(example["group"], []).append(
            tuple((question, answer) for question, answer in example["turns"])
        )
    return groups


def main() -> None:
    """Write the corpus and say how large each group is."""
    OUT.mkdir(exist_ok=True)
    examples = Corpus().build()
    lines = [json.dumps(asdict(example), ensure_ascii=False) for example in examples]
    CORPUS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(len(examples), dict(Counter(example.group for example in examples)))


if __name__ == "__main__":
    main()
