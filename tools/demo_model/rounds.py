"""How many earlier rounds the bundled model can use: ``python -m tools.demo_model.rounds [--talks]``.

The second evaluation set's items, in one language after the other and in a fixed random order, follow one
another in conversations of twelve questions. The answers between are the model's own. Each item's last answer is
graded, with so many of the earlier rounds sent as the columns say, or all that fit.
With ``--talks`` every answer of the evaluation conversations is graded instead, with the page's number of rounds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from chatglm_backend.checkpoint.default import bundled_folder, bundled_rounds
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.core import Message
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer
from chatglm_backend.ui.conversation import fit
from tools.demo_model.evaluate import PARAMS, Answerer
from tools.demo_model.examples import read_evaluation, read_talks
from tools.demo_model.grading import right

SET = "evaluation_set_2"
ALL = 99
COLUMNS = (0, 1, 2, ALL)
QUESTIONS = 12


def conversations() -> Iterator[list[dict[str, object]]]:
    """Items whose questions together are at most ``QUESTIONS``."""
    items = read_evaluation(SET)
    for chinese in (True, False):
        chosen = [item for item in items if any("\u4e00" <= sign <= "\u9fff" for sign in str(item["turns"])) is chinese]
        random.Random(12).shuffle(chosen)
        talk: list[dict[str, object]] = []
        for item in chosen:
            if sum(len(one["turns"]) for one in [*talk, item]) > QUESTIONS:  # type: ignore[arg-type]
                yield talk
                talk = []
            talk.append(item)


@dataclass(frozen=True, slots=True)
class Talker:
    """Asks the bundled model one question after the other, with some of the earlier rounds."""

    answerer: Answerer
    tokenizer: Tokenizer
    limit: int

    def replies(self, questions: Sequence[str], rounds: int) -> Iterator[tuple[str, bool]]:
        """Each question's answer, the earlier ones being the model's own, and whether it came to an end by itself."""
        said: list[Message] = []
        for question in questions:
            said.append(Message("user", question))
            sent = fit(tuple(said[-2 * rounds - 1 :]), self.count, self.limit, PARAMS.max_new_tokens).messages
            answer, ended = self.answerer.ask({"messages": sent})
            said.append(Message("assistant", answer))
            yield answer, ended

    def count(self, turns: tuple[Message, ...]) -> int:
        """The tokens of a conversation."""
        return len(self.tokenizer.encode_chat(turns).ids)


def score(talker: Talker, rounds: int) -> dict[str, tuple[int, int]]:
    """(right, all) of single questions and of follow-ups, with so many earlier rounds."""
    found = {"single": (0, 0), "follow_up": (0, 0)}
    for talk in conversations():
        replies = talker.replies([question for item in talk for question in item["turns"]], rounds)  # type: ignore[attr-defined]
        for item in talk:
            answer, ended = [next(replies) for _ in item["turns"]][-1]  # type: ignore[attr-defined]
            kind = "follow_up" if len(item["turns"]) > 1 else "single"  # type: ignore[arg-type]
            found[kind] = found[kind][0] + (ended and right(item, answer)), found[kind][1] + 1
    return found


def print_talks(talker: Talker) -> None:
    """Print right/all of each evaluation conversation, of each ability and of all turns."""
    by_ability: dict[str, list[bool]] = {}
    for talk in read_talks():
        turns = talk["turns"]
        replies = talker.replies([turn["question"] for turn in turns], bundled_rounds() or ALL)
        good = [ended and right(turn, answer) for turn, (answer, ended) in zip(turns, replies, strict=True)]
        for turn, passed in zip(turns, good, strict=True):
            by_ability.setdefault(turn["ability"], []).append(passed)
        print(f"{talk['id']}: {sum(good)}/{len(good)}", flush=True)
    whole = [passed for passes in by_ability.values() for passed in passes]
    for name, found in (*by_ability.items(), ("all", whole)):
        print(f"{name}: {sum(found)}/{len(found)} ({100 * sum(found) / len(found):.1f} %)")


def main() -> None:
    """Print a table, or the scores of the evaluation conversations."""
    torch.set_num_threads(1)
    low = open_low_bit(bundled_folder())
    tokenizer = load_tokenizer(low.tokenizer_folder, "chatglm")
    talker = Talker(Answerer(low.config, Int4Weights(low), tokenizer), tokenizer, low.config.context_limit)
    if "--talks" in sys.argv[1:]:
        print_talks(talker)
        return
    print("| earlier rounds sent | single questions | follow-ups | all |\n|---|---|---|---|")
    for rounds in COLUMNS:
        found = score(talker, rounds)
        total = tuple(map(sum, zip(*found.values(), strict=True)))
        cells = (f"{right} of {every} ({100 * right / every:.1f} %)" for right, every in (*found.values(), total))
        print(f"| {'all that fit' if rounds == ALL else rounds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
