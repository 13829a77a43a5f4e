"""Turns the corpus into batches of token ids, with small changes of punctuation, case and prompt form."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sentencepiece
import torch
from torch import Tensor

from tools.demo_model.corpus import OUT, read_corpus
from tools.demo_model.examples import Turn, evaluation_keys, key
from tools.demo_model.tables import read_tables

# Relative; groups of few short answers that are soon learnt have small shares.
SHARES = {
    "topic": 0.34,
    "talk": 0.11,
    "fact": 0.15,
    "capital": 0.03,
    "word": 0.04,
    "unknown": 0.09,
    "refused": 0.28,
    "unknown_sum": 0.015,
    "name": 0.04,
    "sum": 0.04,
    "times": 0.015,
    "follow_name": 0.03,
    "follow_more": 0.03,
    "follow_other": 0.012,
}
# Groups in which every answer is asked for as often as every other, however many wordings it has.
EVEN = frozenset({"topic", "talk", "fact"})


# Groups whose answers are fixed sentences, and how many tokens of them are mostly enough.
FIXED = frozenset({*EVEN, "unknown", "refused", "unknown_sum", "follow_more", "follow_other"})
HEAD = 7
SWAPPED = frozenset({*EVEN, "capital", "unknown", "refused"})
# Groups of many written questions, of which a word may be lost.
THINNED = frozenset({"topic", "fact", "unknown"})
# A loss a token below which an example counts as easy.
EASY = 0.03


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded ids with what :class:`Network` needs; ``targets`` are the ids that follow the wanted positions."""

    ids: Tensor
    starts: Tensor
    lengths: Tensor
    wanted: Tensor
    targets: Tensor
    weights: Tensor
    names: tuple[str, ...] = ()


Drawn = tuple[list[int], list[int], str]
"""Prompt ids, answer ids, and what the example is called."""


class Stream:
    """Endless batches of about ``tokens`` tokens each, sequences of similar length together."""

    def __init__(self, tokens: int, seed: int, behind: float = 0.0) -> None:
        """``behind``: how many questions stand behind an earlier round of any kind, as those of a conversation do."""
        self.rng = random.Random(seed)
        self.tokens, self.behind = tokens, behind
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(OUT / "ice_text.model"))
        self.gmask, self.sop, self.eop, self.newline = (
            self.sp.piece_to_id(p) for p in ("[gMASK]", "<sop>", "<eop>", "<n>")
        )
        self.groups = read_corpus()
        self.answers: dict[str, list[str]] = {}
        for group in EVEN:
            for turns in self.groups.pop(group):
                name = f"{group} {turns[-1][1]}"
                self.groups.setdefault(name, []).append(turns)
                self.answers.setdefault(group, []).append(name)
            self.answers[group] = sorted(set(self.answers[group]))
        self.easy: set[str] = set()
        self.decks: dict[str, list[tuple[Turn, ...]]] = {}
        self.forbidden = evaluation_keys()
        self.tables = read_tables()

    def draw(self) -> Drawn:
        """One example, perhaps behind an earlier round."""
        group, turns = self.example()
        name = self.name(group, turns)
        while len(turns) < 3 and self.rng.random() < self.behind / len(turns) ** 2:
            turns = (*self.earlier(group), *turns)
        prompt = self.encode(self.prompt_text(turns, group), sample=self.rng.random() < 0.1 and group in SWAPPED)
        if group in THINNED and self.rng.random() < 0.3:
            prompt = [one for one in prompt if self.rng.random() > 0.12]
        answer = [*self.encode(turns[-1][1], sample=False), self.eop]
        # Fixed sentences are soon known by heart: their beginnings hold what there is to decide.
        if group in FIXED and len(answer) > HEAD and self.rng.random() < 0.92:
            answer = answer[:HEAD]
        return [*prompt, self.gmask, self.sop], answer, name

    @staticmethod
    def name(group: str, turns: tuple[Turn, ...]) -> str:
        """What an example is called."""
        return "\n".join((group, *(question for question, _ in turns)))

    def note(self, names: Sequence[str], losses: Sequence[float]) -> None:
        """Remember which examples are soon to be skipped: those just answered without doubt."""
        for name, loss in zip(names, losses, strict=True):
            (self.easy.add if loss < EASY else self.easy.discard)(name)

    def example(self) -> tuple[str, tuple[Turn, ...]]:
        """A group and one of its examples; each comes or is skipped, as most easy ones are, before one comes twice."""
        group = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
        name = self.rng.choice(self.answers[group]) if group in EVEN else group
        for _ in range(5):
            deck = self.decks.get(name)
            if not deck:
                deck = self.decks[name] = self.rng.sample(self.groups[name], len(self.groups[name]))
            turns = deck.pop()
            if self.name(group, turns) not in self.easy or self.rng.random() < 0.3:
                break
        return group, turns

    def earlier(self, group: str) -> tuple[Turn, ...]:
        """A round to stand before one of ``group``, now and then with a wrong answer, as the model gives them."""
        other, turns = self.example()
        question, answer = turns[-1]
        if "name" in group and "name" in other:
            return ()
        return ((question, self.example()[1][-1][1] if self.rng.random() < 0.08 else answer),)

    def encode(self, text: str, *, sample: bool) -> list[int]:
        """Ids of a text; with ``sample`` split in a random way, so that unseen splits are less strange."""
        text = text.replace("\n", "<n>")
        if sample:
            return list(self.sp.encode(text, enable_sampling=True, alpha=0.3, nbest_size=-1))
        return list(self.sp.encode(text))

    def prompt_text(self, turns: tuple[Turn, ...], group: str) -> str:
        """The prompt of the last turn, in recipe form or chat form."""
        questions = []
        for plain, _ in turns:
            padded = plain if "name" in group else self.pad(plain, swap=group in SWAPPED)
            # Fillers change the normalised prompt: they must not turn it into one of an evaluation set.
            questions.append(self.vary(plain if key([padded]) in self.forbidden else padded, named="name" in group))
        if len(turns) == 1:
            return f"问：{questions[0]}\n答：" if self.rng.random() < 0.6 else questions[0]
        text = "".join(f"[Round {i}]\n问：{questions[i]}\n答：{a}\n" for i, (_, a) in enumerate(turns[:-1]))
        return f"{text}[Round {len(turns) - 1}]\n问：{questions[-1]}\n答："

    def pad(self, question: str, *, swap: bool) -> str:
        """Sometimes words around the question that change nothing."""
        rng, forms = self.rng, self.tables.forms
        language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in question) else "en"
        if swap and rng.random() < 0.5:
            question = self.swap(question, language)
        if swap and rng.random() < 0.15:
            question = self.slip(question, language)
        if swap and rng.random() < 0.1:
            question = rng.choice(forms["before"][language]) + question
        if rng.random() < 0.08:
            question = rng.choice(forms["openings"][language]) + question
        elif rng.random() < 0.08:
            question = rng.choice(forms["wrap"][language]).replace("{q}", question)
        if rng.random() < 0.12:
            question = question.rstrip("?？") + rng.choice(forms["endings"][language])
        return question

    def swap(self, question: str, language: str) -> str:
        """Words replaced by others that can stand for them; in English now and then a small word left out."""
        for choices in self.rng.sample(self.tables.swaps[language], 12):
            found = [w for w in choices if re.search(self.bounded(w, language), question, re.IGNORECASE)]
            if found:
                other = self.rng.choice(choices).strip()
                question = re.sub(self.bounded(found[0], language), other, question, count=1, flags=re.IGNORECASE)
        if language == "en" and self.rng.random() < 0.3:
            question = re.sub(r"\b(the|a|an|do|is|please|of)\b ", "", question, count=1, flags=re.IGNORECASE)
        return question

    def slip(self, question: str, language: str) -> str:
        """A character or word left out, or two letters exchanged; short questions stay as they are."""
        if language == "zh":
            if len(question) < 9:
                return question
            at = self.rng.randrange(len(question))
            return question[:at] + question[at + 1 :]
        words = question.split(" ")
        if len(words) < 6:
            return question
        at = self.rng.randrange(len(words))
        word = words.pop(at)
        if self.rng.random() < 0.5 and len(word) > 4:
            cut = self.rng.randrange(1, len(word) - 2)
            words.insert(at, word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :])
        return " ".join(words)

    @staticmethod
    def bounded(word: str, language: str) -> str:
        """A pattern for a word: whole words in English."""
        return re.escape(word) if language == "zh" else rf"\b{re.escape(word.strip())}\b"

    def vary(self, question: str, *, named: bool) -> str:
        """Another end mark, lower case, no quotation marks: nothing that changes the normalised prompt.

        Names (``named``) keep their case, for they are to be copied.
        """
        rng = self.rng
        chinese = any("\u4e00" <= c <= "\u9fff" for c in question)
        if rng.random() < 0.5:
            bare = question.rstrip("?？")
            marks = ["？", "？", "?", "", "", "。", "！"] if chinese else ["?", "?", "?", "", "", ".", "!", " ?"]
            question = bare + rng.choice(marks)
        elif chinese and not question.endswith(("?", "？", "=")) and rng.random() < 0.5:
            question += "？"
        if named:
            return question
        draw = rng.random()
        if draw < 0.18:
            question = question.lower()
        elif draw < 0.20:
            question = question.upper()
        if rng.random() < 0.3:
            question = question.replace("“", "").replace("”", "")
        elif rng.random() < 0.1:
            question = question.replace("“", '"').replace("”", '"')
        if rng.random() < 0.15:
            question = question.replace("，", " " if chinese else ",")
        return question

    def __iter__(self) -> Iterator[Batch]:
        """Batches for ever."""
        while True:
            pool = sorted((self.draw() for _ in range(1024)), key=lambda one: len(one[0]) + len(one[1]))
            batches: list[list[Drawn]] = [[]]
            for one in pool:
                length = len(one[0]) + len(one[1])
                if batches[-1] and length * (len(batches[-1]) + 1) > self.tokens:
                    batches.append([])
                batches[-1].append(one)
            self.rng.shuffle(batches)
            for batch in batches:
                yield self.collate(batch)

    @staticmethod
    def collate(drawn: Sequence[Drawn]) -> Batch:
        """Pad one batch; the loss is on answers only, at the positions from ``<sop>`` on."""
        longest = -(-max(len(p) + len(a) for p, a, _ in drawn) // 4) * 4
        ids = torch.zeros(len(drawn), longest, dtype=torch.long)
        wanted = torch.zeros(len(drawn), longest, dtype=torch.bool)
        targets: list[int] = []
        weights: list[float] = []
        for row, (prompt, answer, _) in enumerate(drawn):
            whole = prompt + answer[:-1]
            ids[row, : len(whole)] = torch.tensor(whole)
            wanted[row, len(prompt) - 1 : len(whole)] = True
            targets += answer
            # Long fixed sentences would otherwise drown the few tokens that decide.
            weights += [1.0 / len(answer) ** 0.5] * len(answer)
        starts = torch.tensor([len(p) - 1 for p, _, _ in drawn])
        lengths = torch.tensor([len(p) + len(a) - 1 for p, a, _ in drawn])
        names = tuple(name for _, _, name in drawn)
        return Batch(ids, starts, lengths, wanted, torch.tensor(targets), torch.tensor(weights), names)
