"""How many earlier rounds the bundled model can use: ``python -m tools.demo_model.rounds``.

The second evaluation set's items, in one language after the other and in a fixed random order, follow one
another in conversations of twelve questions. The answers between are the model's own. Each item's last answer is
graded, with so many of the earlier rounds sent as the columns say, or all that fit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.core import Message
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer
from chatglm_backend.ui.conversation import fit
from tools.demo_model.evaluate import PARAMS, Answerer
from tools.demo_model.examples import read_evaluation
from tools.demo_model.grading import last_number, passes

SET = "evaluation_set_2"
COLUMNS = (0, 1, 2, 99)
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


def score(answerer: Answerer, tokenizer: Tokenizer, rounds: int, limit: int) -> dict[str, tuple[int, int]]:
    """(right, all) of single questions and of follow-ups, with so many earlier rounds."""
    found = {"single": (0, 0), "follow_up": (0, 0)}

    def count(turns: tuple[Message, ...]) -> int:
        return len(tokenizer.encode_chat(turns).ids)

    for talk in conversations():
        said: list[Message] = []
        for item in talk:
            for question in item["turns"]:  # type: ignore[attr-defined]
                said.append(Message("user", question))
                sent = fit(tuple(said[-2 * rounds - 1 :]), count, limit, PARAMS.max_new_tokens).messages
                answer, ended = answerer.ask({"messages": sent})
                said.append(Message("assistant", answer))
            right = ended and passes(item, answer)
            if item["ability"] == "sums":
                right = right and [last_number(answer)] == item["must_contain"]
            kind = "follow_up" if len(item["turns"]) > 1 else "single"  # type: ignore[arg-type]
            found[kind] = found[kind][0] + right, found[kind][1] + 1
    return found


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    low = open_low_bit(bundled_folder())
    tokenizer = load_tokenizer(low.tokenizer_folder, "chatglm")
    answerer = Answerer(low.config, Int4Weights(low), tokenizer)
    print("| earlier rounds sent | single questions | follow-ups | all |\n|---|---|---|---|")
    for rounds in COLUMNS:
        found = score(answerer, tokenizer, rounds, low.config.context_limit)
        total = tuple(map(sum, zip(*found.values(), strict=True)))
        cells = (f"{right} of {every} ({100 * right / every:.1f} %)" for right, every in (*found.values(), total))
        print(f"| {'all that fit' if rounds > QUESTIONS else rounds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
