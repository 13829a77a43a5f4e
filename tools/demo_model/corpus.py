"""Makes the training corpus from the tables and templates; run as ``python -m tools.demo_model.corpus``.

Writes ``out/corpus.jsonl``: one example a line, ``{"group", "turns": [[question, answer], ...]}``.
Deterministic. Leaves out every prompt of the evaluation set and every held-out sum.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model import templates as tp
from tools.demo_model.sums import all_sums, held_out, result
from tools.demo_model.tables import (
    HERE,
    Topic,
    read_capitals,
    read_facts,
    read_names,
    read_topics,
    read_unknown,
    read_words,
)

OUT = HERE / "out"
SEED = 6
LANGUAGES = ("zh", "en")
Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn: ``turns`` are (question, answer); only the last answer is learnt."""

    group: str
    turns: tuple[Turn, ...]


def normalise(text: str) -> str:
    """A prompt without case, width, spaces and punctuation; the signs of sums stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in text if c in "+-*×=/" or not unicodedata.category(c).startswith(("P", "Z", "C")))


def key(questions: Sequence[str]) -> str:
    """The identity of a conversation's prompts for keeping the two sets apart."""
    return "\n".join(normalise(question) for question in questions)


def read_evaluation() -> list[dict[str, object]]:
    """The items of the evaluation set."""
    data = json.loads((HERE / "evaluation_set.json").read_text(encoding="utf-8"))
    return list(data["items"])


def evaluation_keys() -> frozenset[str]:
    """The keys of all evaluation prompts."""
    return frozenset(key(item["turns"]) for item in read_evaluation())  # type: ignore[arg-type]


class Corpus:
    """Builds the example groups with one seeded random generator."""

    def __init__(self, seed: int = SEED) -> None:
        self.rng = random.Random(seed)
        self.topics = read_topics()
        self.facts = read_facts()
        self.capitals = read_capitals()
        self.words = read_words()
        self.names = read_names()
        self.unknown = read_unknown()
        self._singles: list[Example] = []

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

    def pick(self, table: dict[str, str], language: str, **fields: str) -> str:
        """A random form of a table, filled in."""
        return self.rng.choice(tp.forms(table, language)).format(**fields)

    def explained(self) -> Iterator[Example]:
        """Topics and facts: every template for every term, and the written questions with polite openings."""
        for group, topics in (("topic", self.topics), ("fact", self.facts)):
            for topic in topics:
                for language in LANGUAGES:
                    for question in topic_questions(topic, language):
                        yield Example(group, ((question, topic.answers[language]),))

    def geography(self) -> Iterator[Example]:
        """Capitals, both ways."""
        for capital in self.capitals:
            for language in LANGUAGES:
                fields = {"c": capital.country[language], "k": capital.city[language]}
                answer = tp.CAPITAL_ANSWER[language].format(**fields)
                for table in (tp.CAPITAL, tp.CAPITAL_OF):
                    for form in tp.forms(table, language):
                        yield Example("capital", ((form.format(**fields), answer),))

    def dictionary(self) -> Iterator[Example]:
        """Word translations, both ways, asked in both languages."""
        for zh, en in self.words:
            for table, answers in ((tp.TO_ENGLISH, tp.TO_ENGLISH_ANSWER), (tp.TO_CHINESE, tp.TO_CHINESE_ANSWER)):
                for language in LANGUAGES:
                    for form in tp.forms(table, language):
                        yield Example("word", ((form.format(z=zh, e=en), answers[language].format(z=zh, e=en)),))

    def known_keys(self) -> frozenset[str]:
        """Terms, countries, words and cities that have an answer."""
        terms = [t for topic in self.topics for language in LANGUAGES for t in topic.terms.get(language, [])]
        places = [c for capital in self.capitals for c in capital.country.values()]
        words = [w for pair in self.words for w in pair]
        return frozenset(normalise(text.removeprefix("the ")) for text in (*terms, *places, *words))

    def invented(self, language: str) -> str:
        """A word that means nothing, in the characters of the language."""
        if language == "en":
            parts = "ba be bo da do fa fi ga go ka ki la lo ma mi na no pa pe ra ri sa so ta ti va vo wa za zu".split()
            ends = "n r st x l ck m ing er tion ology y".split()
            return "".join(self.rng.choices(parts, k=self.rng.randint(1, 3))) + self.rng.choice(ends)
        return "".join(common_character(self.rng) for _ in range(self.rng.randint(2, 4)))

    def strangers(self) -> Iterator[Example]:
        """Everything the model does not know, in the same forms as what it knows."""
        known = self.known_keys()
        for language in LANGUAGES:
            answer = tp.REFUSAL[language]
            things = [n for n in self.unknown[f"{language}_nouns"] if normalise(n) not in known]
            bare = [re.sub(r"^(the|a|an) ", "", n) for n in things]
            things += [self.invented(language) for _ in range(250)]
            for thing in things:
                for form in self.rng.sample(tp.forms(tp.TERM, language), 16):
                    yield Example("unknown", ((form.format(t=thing), answer),))
            for request in self.unknown[f"{language}_requests"]:
                for form in set(tp.forms(tp.WRAP, language)):
                    yield Example("unknown", ((form.format(q=request), answer),))
            places = [*self.unknown[f"{language}_places"], *(self.invented(language).title() for _ in range(150))]
            for place in places:
                for form in self.rng.sample(tp.forms(tp.CAPITAL, language), 7):
                    yield Example("unknown", ((form.format(c=place), answer),))
            bare += [self.invented(language) for _ in range(100)]
            for word in bare:
                other = tp.TO_ENGLISH if language == "zh" else tp.TO_CHINESE
                for asking in LANGUAGES:
                    form = self.rng.choice(tp.forms(other, asking))
                    if normalise(word) not in known and not (asking == "zh" and "是什么意思" in form):
                        yield Example("unknown", ((form.format(z=word, e=word), tp.REFUSAL[asking]),))
            yield from self.who_what(language, bare)
            yield from self.hard_sums(language)

    def who_what(self, language: str, things: list[str]) -> Iterator[Example]:
        """Questions of the facts' forms about things outside the table."""
        forms = {
            "zh": "谁写了《{t}》|《{t}》的作者是谁|谁发明了{t}|谁画了《{t}》|{t}有多重|{t}有多高|{t}有多少人|{t}在哪里|{t}多少钱|"
            "{t}有几条腿|{t}是什么颜色的|{t}怎么做|怎么学{t}|为什么{t}|{t}的历史|写一首关于{t}的诗|推荐一些{t}|帮我写{t}|"
            "{t}什么时候出现的|最好的{t}是什么|{t}的总统是谁|{t}的货币是什么|{t}有多少人口|我喜欢{t}|讲一个关于{t}的故事|怎么修{t}",
            "en": "Who wrote {t}?|Who is the author of {t}?|Who invented {t}?|Who painted {t}?|How heavy is {t}?|"
            "How tall is {t}?|How many people live in {t}?|Where is {t}?|How much is {t}?|How many legs does {t} have?|"
            "What colour is {t}?|How do I make {t}?|How do I learn {t}?|Why is there {t}?|What is the history of {t}?|"
            "Write a poem about {t}|Recommend some {t}|Help me write {t}|When did {t} begin?|What is the best {t}?|"
            "Who is the president of {t}?|What is the currency of {t}?|What is the population of {t}?|I like {t}|"
            "Tell me a story about {t}|How can I repair {t}?|What do {t} eat?|Who is {t}?|Who is the king of {t}?",
        }
        countries = [c.country[language] for c in self.capitals]
        skip = {"红楼梦", "西游记", "电话", "猫", "草", "雪", "天空"}
        for form in forms[language].split("|"):
            sample = [*self.rng.sample(things, 40), *(self.invented(language) for _ in range(8))]
            if any(
                w in form
                for w in (
                    "人口",
                    "总统",
                    "货币",
                    "多少人",
                    "people live",
                    "president",
                    "currency",
                    "population",
                    "king",
                )
            ):
                sample += self.rng.sample(countries, 40)
            for thing in sample:
                if thing not in skip:
                    yield Example("unknown", ((form.format(t=thing), tp.REFUSAL[language]),))

    def hard_sums(self, language: str) -> Iterator[Example]:
        """Sums beyond the tables: three digits, long products, divisions, fractions."""
        rng = self.rng
        for _ in range(2500):
            kind = rng.randrange(6)
            small, big = rng.randint(0, 99), rng.randint(100, 9999 if rng.random() < 0.4 else 999)
            a, b = (small, big) if rng.random() < 0.3 else (big, rng.choice([small, rng.randint(100, 999)]))
            sign = rng.choice("+-")
            if kind == 2:
                a, b, sign = rng.randint(10, 99), rng.randint(0, 99), "*"
                a, b = (a, b) if rng.random() < 0.7 else (b, a)
                if a < 10 and b < 10:
                    continue
            if kind in (0, 1, 2, 3):
                operator = rng.choice(tp.OPERATORS[language][sign].split("|"))
                expression = f"{a}{operator}{b}"
            elif kind == 4:
                operator = rng.choice(["÷", "/", "除以"] if language == "zh" else [" / ", " ÷ ", " divided by "])
                expression = f"{rng.randint(1, 999)}{operator}{rng.randint(1, 99)}"
            else:
                third = [f"{small}的平方", f"{small}.5+{b % 10}", f"{small}的{b % 9 + 2}次方", f"根号{small}"]
                if language == "en":
                    third = [f"{small} squared", f"{small}.5 + {b % 10}", f"{small} to the power of {b % 9 + 2}"]
                expression = rng.choice(third)
            yield Example("unknown_sum", ((self.pick(tp.SUM, language, s=expression), tp.REFUSAL[language]),))

    def sum_text(self, a: int, sign: str, b: int, language: str) -> str:
        """A sum in words or signs."""
        return f"{a}{self.rng.choice(tp.OPERATORS[language][sign].split('|'))}{b}"

    def arithmetic(self) -> Iterator[Example]:
        """All sums that are not held out; the times table more often, because it is small."""
        for a, sign, b in all_sums():
            if held_out(a, sign, b):
                continue
            for _ in range(16 if sign == "*" else 2):
                for language in LANGUAGES:
                    question = self.pick(tp.SUM, language, s=self.sum_text(a, sign, b, language))
                    yield Example("times" if sign == "*" else "sum", ((question, sum_answer(a, sign, b)),))

    def lone_names(self) -> Iterator[Example]:
        """A name given, and a name asked for before one was given."""
        for language in LANGUAGES:
            for form in tp.forms(tp.NAME_ASK, language):
                yield Example("name", ((form, tp.NO_NAME[language]),))
            for name in self.names[language]:
                for form in self.rng.sample(tp.forms(tp.NAME_IS, language), 4):
                    yield Example("name", ((form.format(n=name), tp.NAME_HELLO[language].format(n=name)),))

    def conversations(self) -> Iterator[Example]:
        """Follow-ups of two and three turns."""
        for language in LANGUAGES:
            for _ in range(5000):
                yield Example("follow_name", self.name_talk(language))
            for _ in range(3000):
                yield Example("follow_more", self.more_talk(language))
            for _ in range(3000):
                yield Example("follow_other", self.other_language(language))
        for _ in range(6000):
            first, second = self.rng.sample(self._singles, 2)
            if second.group != "name" or first.group != "name":
                yield Example("follow_any", (*first.turns, *second.turns))

    def any_name(self, language: str) -> str:
        """A trained name, or one put together from pieces; never a held-out one."""
        held = set(self.names["zhheld"] + self.names["enheld"])
        for _ in range(100):
            if self.rng.random() < 0.35:
                name = self.rng.choice(self.names[language])
            elif language == "zh":
                pool = self.names["zh"]
                name = self.rng.choice(pool)[0] + self.rng.choice(pool)[-1]
                name = name if self.rng.random() < 0.6 else name + self.rng.choice(pool)[-1]
            else:
                name = self.invented("en").title()
            if name not in held:
                return name
        return self.names[language][0]

    def name_talk(self, language: str) -> tuple[Turn, ...]:
        """A name, perhaps something else, then the question for the name."""
        name = self.any_name(language)
        given = (self.pick(tp.NAME_IS, language, n=name), tp.NAME_HELLO[language].format(n=name))
        asked = (self.pick(tp.NAME_ASK, language), tp.NAME_ANSWER[language].format(n=name))
        if self.rng.random() < 0.35:
            between = self.rng.choice(self._singles)
            if between.group != "name":
                return (given, *between.turns, asked)
        return (given, asked)

    def more_talk(self, language: str) -> tuple[Turn, ...]:
        """ "What about ...?" after a capital, a word, a sum or a topic; sometimes about a thing unknown."""
        kind = self.rng.choice(["capital", "capital", "word", "word", "topic", "sum"])
        if kind == "capital":
            a, b = self.rng.sample(self.capitals, 2)
            fields = {"c": a.country[language], "k": a.city[language]}
            first = (self.pick(tp.CAPITAL, language, **fields), tp.CAPITAL_ANSWER[language].format(**fields))
            thing = b.country[language]
            answer = tp.CAPITAL_ANSWER[language].format(c=thing, k=b.city[language])
            if self.rng.random() < 0.2:
                thing = self.rng.choice([*self.unknown[f"{language}_places"], self.invented(language).title()])
                answer = tp.REFUSAL[language]
        elif kind == "word":
            (z1, e1), (z2, e2) = self.rng.sample(self.words, 2)
            to_english = self.rng.random() < (0.7 if language == "zh" else 0.3)
            ask, tell = (tp.TO_ENGLISH, tp.TO_ENGLISH_ANSWER) if to_english else (tp.TO_CHINESE, tp.TO_CHINESE_ANSWER)
            first = (self.pick(ask, language, z=z1, e=e1), tell[language].format(z=z1, e=e1))
            thing, answer = (z2 if to_english else e2), tell[language].format(z=z2, e=e2)
        elif kind == "topic":
            a, b = self.rng.sample([t for t in self.topics if t.terms], 2)
            first = (self.pick(tp.TERM, language, t=self.rng.choice(a.terms[language])), a.answers[language])
            thing, answer = self.rng.choice(b.terms[language]), b.answers[language]
        else:
            one, two = (self.rng.choice([s for s in self.some_sums() if not held_out(*s)]) for _ in range(2))
            first = (self.pick(tp.SUM, language, s=self.sum_text(*one, language)), sum_answer(*one))
            thing, answer = self.sum_text(*two, language), sum_answer(*two)
        return (first, (self.pick(tp.MORE, language, x=thing), answer))

    def some_sums(self) -> list[tuple[int, str, int]]:
        """A few random additions and subtractions, the first always trained on."""
        rng = self.rng
        return [(1, "+", 1), *((rng.randint(0, 99), rng.choice("+-"), rng.randint(0, 99)) for _ in range(8))]

    def other_language(self, language: str) -> tuple[Turn, ...]:
        """The same answer again in the other language."""
        other = "en" if language == "zh" else "zh"
        if self.rng.random() < 0.25:
            capital = self.rng.choice(self.capitals)
            pair = {x: tp.CAPITAL_ANSWER[x].format(c=capital.country[x], k=capital.city[x]) for x in LANGUAGES}
            question = self.pick(tp.CAPITAL, language, c=capital.country[language])
        else:
            topic = self.rng.choice([*self.topics, *self.topics, *self.facts])
            pair = topic.answers
            question = self.rng.choice(topic_questions(topic, language))
        asked = self.rng.choice(tp.IN_OTHER[language, other].split("|"))
        return ((question, pair[language]), (asked, pair[other]))


def topic_questions(topic: Topic, language: str) -> list[str]:
    """Every question for one topic in one language."""
    questions = [form.format(t=t) for t in topic.terms.get(language, []) for form in tp.forms(tp.TERM, language)]
    wraps = sorted(set(tp.forms(tp.WRAP, language)))
    return questions + [wrap.format(q=q) for q in topic.questions[language] for wrap in wraps]


def sum_answer(a: int, sign: str, b: int) -> str:
    """The answer to a sum, the same in both languages."""
    return f"{a}{'×' if sign == '*' else sign}{b}={result(a, sign, b)}"


def common_character(rng: random.Random) -> str:
    """One of the 3755 common characters of GB 2312's first level."""
    while True:
        code = bytes([rng.randint(0xB0, 0xD7), rng.randint(0xA1, 0xFE)])
        try:
            return code.decode("gb2312")
        except UnicodeDecodeError:
            continue


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
