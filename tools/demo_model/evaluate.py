"""Scores the exported model; run as ``python -m tools.demo_model.evaluate``. Needs ``export`` first.

INT4 goes through the project's engine and bigdl's kernel, fp32 through the same engine on the dense
weights. Writes ``out/scores.json`` with every answer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.core import CancelToken, Completed, FinishReason, GenerationParams, GenerationRequest, Message
from chatglm_backend.engine.engine import Engine
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import build_model
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.weights import DenseWeights, Weights
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer
from tools.demo_model.corpus import OUT, read_corpus
from tools.demo_model.examples import EVALUATION_SETS, Example, read_evaluation
from tools.demo_model.grading import plain, right

SEEN = 500
SEEN_SET = "corpus"
PARAMS = GenerationParams(max_new_tokens=80)


class Answerer:
    """Asks one model."""

    def __init__(self, config: ModelConfig, weights: Weights, tokenizer: Tokenizer) -> None:
        self.engine = Engine(build_model(config, weights), tokenizer)
        self.count = 0

    def ask(self, request: dict[str, object]) -> tuple[str, bool]:
        """The answer, and whether it came to an end by itself."""
        self.count += 1
        whole = GenerationRequest(request_id=str(self.count), params=PARAMS, **request)  # type: ignore[arg-type]
        text, ended = "", False
        for event in self.engine.generate(whole, CancelToken()):
            text += getattr(event, "text", "")
            if isinstance(event, Completed):
                ended = event.finish_reason is FinishReason.STOP
        return text.strip(), ended

    def talk(self, turns: Sequence[str], form: str = "recipe", given: Sequence[str] = ()) -> tuple[str, bool]:
        """The last answer of a conversation; the earlier answers are the model's own, or those ``given``."""
        if len(turns) == 1:
            return self.ask({"prompt": turns[0], "prompt_format": form})
        messages: list[Message] = []
        for number, turn in enumerate(turns[:-1]):
            messages.append(Message("user", turn))
            answer = given[number] if given else self.ask({"messages": tuple(messages)})[0]
            messages.append(Message("assistant", answer))
        return self.ask({"messages": (*messages, Message("user", turns[-1]))})


def seen_examples() -> list[Example]:
    """A fixed sample of training examples, the same number of each group."""
    groups, rng = read_corpus(), random.Random(11)
    return [Example(name, e) for name in sorted(groups) for e in rng.sample(groups[name], SEEN // len(groups))]


def score(answerer: Answerer) -> list[dict[str, object]]:
    """Every graded answer: seen questions, then the evaluation sets."""
    results: list[dict[str, object]] = []
    for example in seen_examples():
        questions, answers = zip(*example.turns, strict=True)
        answer, ended = answerer.talk(questions, given=answers[:-1])
        same = ended and plain(answer) == plain(answers[-1])
        row = {"set": SEEN_SET, "ability": "seen", "group": example.group, "prompt": " | ".join(questions)}
        results.append({**row, "answer": answer, "right": same})
    return results + [row for name in EVALUATION_SETS for row in score_set(answerer, name)]


def score_set(answerer: Answerer, name: str) -> list[dict[str, object]]:
    """Every graded answer of one evaluation set."""
    results: list[dict[str, object]] = []
    for item in read_evaluation(name):
        prompts: list[str] = item["turns"]  # type: ignore[assignment]
        answer, ended = answerer.talk(prompts, str(item["format"]))
        row = {"set": name, "ability": item["ability"], "id": item["id"], "prompt": " | ".join(prompts)}
        results.append({**row, "answer": answer, "right": ended and right(item, answer)})
    return results


def share(results: Sequence[Mapping[str, object]], name: str, ability: str) -> tuple[int, int]:
    """(right, all) of an ability in the set called ``name``."""
    rows = [row for row in results if (row["set"], row["ability"]) == (name, ability)]
    return sum(bool(row["right"]) for row in rows), len(rows)


def main() -> None:
    """Score INT4 and fp32 and print a table of each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=bundled_folder())
    parser.add_argument("--kernel", default="bigdl")
    parser.add_argument("--int4-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    low = open_low_bit(args.model)
    tokenizer = load_tokenizer(low.tokenizer_folder, "chatglm")
    scores = {"int4": score(Answerer(low.config, Int4Weights(low, args.kernel), tokenizer))}
    if not args.int4_only:
        dense = torch.load(OUT / "dense" / "pytorch_model.bin", weights_only=True)
        scores["fp32"] = score(Answerer(low.config, DenseWeights(dense), tokenizer))
    (OUT / "scores.json").write_text(json.dumps(scores, ensure_ascii=False, indent=1), encoding="utf-8")
    for kind, results in scores.items():
        for name in (SEEN_SET, *EVALUATION_SETS):
            abilities = dict.fromkeys(str(row["ability"]) for row in results if row["set"] == name)
            print(kind, name, {a: "{}/{}".format(*share(results, name, a)) for a in abilities})


if __name__ == "__main__":
    main()
