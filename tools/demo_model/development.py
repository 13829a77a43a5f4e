"""Scores a training state on wordings kept out of it; run as ``python -m tools.demo_model.development``.

What choices are made by, so that the evaluation sets are not. An answer counts as right when its first tokens, which
hold what there is to decide, are each the likeliest; weights are rounded to INT4.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import torch

from tools.demo_model.corpus import OUT
from tools.demo_model.data import HEAD, Stream
from tools.demo_model.examples import LANGUAGES
from tools.demo_model.network import Linear, Network, Size
from tools.demo_model.singles import TALK
from tools.demo_model.tables import read_data, read_tables

BATCH = 64
DEVELOPMENT_SET = "development_set"


def questions() -> Iterator[tuple[str, str, str]]:
    """Every (ability, question, answer) of the development set."""
    held, tables = read_data(DEVELOPMENT_SET), read_tables()
    for kind, topics in (("topic", tables.topics), ("fact", tables.facts)):
        for topic in topics:
            ability = "talk" if topic.key in TALK else kind
            for language, asked in held["topics"].get(topic.key, {}).items():
                yield from ((ability, question, topic.answers[language]) for question in asked)
    for language in LANGUAGES:
        refusal = tables.sentences["refusal"][language]
        yield from (("unknown", question, refusal) for question in held["refused"][language])


@torch.inference_mode()
def score(network: Network, stream: Stream) -> dict[str, tuple[int, int]]:
    """(right, all) of each ability."""
    Linear.int4 = True
    asked = sorted(questions(), key=lambda one: len(one[1]))
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for at in range(0, len(asked), BATCH):
        part = asked[at : at + BATCH]
        batch = stream.collate(
            [
                (
                    [*stream.encode(f"问：{question}\n答：", sample=False), stream.gmask, stream.sop],
                    stream.encode(answer, sample=False)[:HEAD],
                    ability,
                )
                for ability, question, answer in part
            ]
        )
        hits = network(batch.ids, batch.starts, batch.lengths, batch.wanted).argmax(-1) == batch.targets
        for ability, hit in zip(batch.names, hits.split(batch.wanted.sum(1).tolist()), strict=True):
            right, every = found[ability]
            found[ability] = (right + int(hit.all()), every + 1)
    return dict(found)


def main() -> None:
    """Print right and all of each ability."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="state")
    args = parser.parse_args()
    saved = torch.load(OUT / f"{args.name}.pt")
    network = Network(Size(*saved["size"]))
    network.load_state_dict(saved["network"])
    for ability, (right, every) in score(network, Stream(2048, seed=0)).items():
        print(f"{ability}: {right} of {every} ({100 * right / every:.1f} %)")


if __name__ == "__main__":
    main()
