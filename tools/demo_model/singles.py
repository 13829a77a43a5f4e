"""Single questions with their answers: what the model knows, and what it must not pretend to know."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tools.demo_model.examples import (
    LANGUAGES,
    Example,
    common_character,
    normalise,
    single,
    sum_answer,
    topic_questions,
)
from tools.demo_model.sums import all_sums, held_out
from tools.demo_model.tables import read_tables

SEED = 6
# Topics of small talk and of the model itself, which conversations hold more of than of all the others.
TALK = frozenset([
    "who", "made", "can", "human", "age", "chatgpt", "real6b", "langs", "learn", "hello", "morning",
    "afternoon", "evening", "night", "thanks", "bye", "howareyou", "nice", "praise", "sorry", "ok",
])  # fmt: skip


class Singles:
    """Makes the one-turn groups with one seeded random generator."""

    def __init__(self) -> None:
        self.rng = random.Random(SEED)
        self.tables = read_tables()
        self._singles: list[Example] = []

    def forms(self, name: str, language: str) -> list[str]:
        """The question forms called ``name``."""
        return self.tables.forms[name][language]

    def pick(self, name: str, language: str, **fields: str) -> str:
        """A random one of these forms, filled in."""
        return self.rng.choice(self.forms(name, language)).format(**fields)

    def say(self, name: str, language: str, **fields: str) -> str:
        """The fixed sentence called ``name``, filled in."""
        return self.tables.sentences[name][language].format(**fields)

    def explained(self) -> Iterator[Example]:
        """Topics and facts: every template for every term, and the written questions, some with an opening."""
        for kind, topics in (("topic", self.tables.topics), ("fact", self.tables.facts)):
            for topic in topics:
                group = "talk" if topic.key in TALK else kind
                for language in LANGUAGES:
                    for question in topic_questions(topic, language, self.rng):
                        yield single(group, question, topic.answers[language])

    def geography(self) -> Iterator[Example]:
        """Capitals, both ways."""
        for capital in self.tables.capitals:
            for language in LANGUAGES:
                fields = {"c": capital.country[language], "k": capital.city[language]}
                for form in self.forms("capital", language) + self.forms("capital_of", language):
                    yield single("capital", form.format(**fields), self.say("capital", language, **fields))

    def dictionary(self) -> Iterator[Example]:
        """Word translations, both ways, asked in both languages."""
        for zh, en in self.tables.words:
            for name in ("to_english", "to_chinese"):
                for language in LANGUAGES:
                    for form in self.forms(name, language):
                        yield single("word", form.format(z=zh, e=en), self.say(name, language, z=zh, e=en))

    def known_keys(self) -> frozenset[str]:
        """Terms, countries, words and cities that have an answer."""
        terms = [t for topic in self.tables.topics for language in LANGUAGES for t in topic.terms.get(language, [])]
        places = [c for capital in self.tables.capitals for c in capital.country.values()]
        words = [w for pair in self.tables.words for w in pair]
        return frozenset(normalise(text.removeprefix("the ")) for text in (*terms, *places, *words))

    def invented(self, language: str) -> str:
        """A word that means nothing, in the characters of the language."""
        if language == "en":
            parts = [first + vowel for first in "bdfgklmnprstvwz" for vowel in "aeiou"]
            ends = ["n", "r", "st", "x", "l", "ck", "m", "ing", "er", "tion", "ology", "y"]
            return "".join(self.rng.choices(parts, k=self.rng.randint(1, 3))) + self.rng.choice(ends)
        return "".join(common_character(self.rng) for _ in range(self.rng.randint(2, 4)))

    def strangers(self) -> Iterator[Example]:
        """Everything the model does not know, in the same forms as what it knows."""
        known, unknown = self.known_keys(), self.tables.unknown
        for language in LANGUAGES:
            answer = self.say("refusal", language)
            things = [n for n in unknown[f"{language}_nouns"] if normalise(n) not in known]
            bare = [re.sub(r"^(the|a|an) ", "", n) for n in things]
            things += [self.invented(language) for _ in range(250)]
            for thing in things:
                for form in self.rng.sample(self.forms("term", language), 16):
                    yield single("unknown", form.format(t=thing), answer)
            for request in (*unknown[f"{language}_requests"], *unknown[f"{language}_near"]):
                yield single("refused", request, answer)
            yield from self.exchanged(language, bare)
            places = [*unknown[f"{language}_places"], *(self.invented(language).title() for _ in range(150))]
            for place in places:
                for form in self.rng.sample(self.forms("capital", language), 7):
                    yield single("unknown", form.format(c=place), answer)
            bare += [self.invented(language) for _ in range(100)]
            for word in bare:
                other = "to_english" if language == "zh" else "to_chinese"
                for asking in LANGUAGES:
                    form = self.rng.choice(self.forms(other, asking))
                    if normalise(word) not in known and not (asking == "zh" and "是什么意思" in form):
                        yield single("unknown", form.format(z=word, e=word), self.say("refusal", asking))
            yield from self.who_what(language, bare)
            yield from self.hard_sums(language)

    def exchanged(self, language: str, things: list[str]) -> Iterator[Example]:
        """Short written questions about a topic with its name replaced by something that is no topic."""
        for topic in self.tables.topics:
            for question in topic.questions[language]:
                found = [t for t in topic.terms.get(language, []) if t in question]
                if found and len(question) < len(max(found, key=len)) + (10 if language == "zh" else 24):
                    asked = question.replace(max(found, key=len), self.rng.choice(things))
                    yield single("unknown", asked, self.say("refusal", language))

    def who_what(self, language: str, things: list[str]) -> Iterator[Example]:
        """Questions of the facts' forms about things outside the table."""
        countries = [c.country[language] for c in self.tables.capitals]
        skip = {"红楼梦", "西游记", "电话", "猫", "草", "雪", "天空"}
        of_countries = re.compile("人口|总统|货币|多少人|people live|president|currency|population|king")
        for form in self.forms("about", language):
            sample = [*self.rng.sample(things, 40), *(self.invented(language) for _ in range(8))]
            if of_countries.search(form):
                sample += self.rng.sample(countries, 40)
            for thing in sample:
                if thing not in skip:
                    yield single("unknown", form.format(t=thing), self.say("refusal", language))

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
                expression = self.sum_text(a, sign, b, language)
            elif kind == 4:
                operator = rng.choice(["÷", "/", "除以"] if language == "zh" else [" / ", " ÷ ", " divided by "])
                expression = f"{rng.randint(1, 999)}{operator}{rng.randint(1, 99)}"
            else:
                third = [f"{small}的平方", f"{small}.5+{b % 10}", f"{small}的{b % 9 + 2}次方", f"根号{small}"]
                if language == "en":
                    third = [f"{small} squared", f"{small}.5 + {b % 10}", f"{small} to the power of {b % 9 + 2}"]
                expression = rng.choice(third)
            if kind in (0, 1, 2, 3) and rng.random() < 0.5:
                story = rng.choice(self.tables.stories[language][sign]).format(a=a, b=b)
                yield single("unknown_sum", story, self.say("refusal", language))
            yield single("unknown_sum", self.sum_question(expression, language), self.say("refusal", language))

    def sum_text(self, a: int, sign: str, b: int, language: str) -> str:
        """A sum in words or signs."""
        return f"{a}{self.rng.choice(self.tables.operators[language][sign])}{b}"

    def sum_question(self, expression: str, language: str) -> str:
        """A sum asked in one of many ways."""
        parts = {name: self.rng.choice(words) for name, words in self.tables.sum_parts[language].items()}
        if language == "en" and parts["e"]:
            parts["e"] = f" {parts['e']}"
        return self.pick("sum", language, s=expression, **parts).strip()

    def arithmetic(self) -> Iterator[Example]:
        """All sums that are not held out; the times table more often, because it is small."""
        for a, sign, b in all_sums():
            if held_out(a, sign, b):
                continue
            for turn in range(24 if sign == "*" else 4):
                for language in LANGUAGES:
                    question = self.sum_question(self.sum_text(a, sign, b, language), language)
                    # A story of taking away makes sense with the larger number first only.
                    if turn % 2 and (sign != "-" or a >= b):
                        question = self.rng.choice(self.tables.stories[language][sign]).format(a=a, b=b)
                    yield single("times" if sign == "*" else "sum", question, sum_answer(a, sign, b, language))

    def lone_names(self) -> Iterator[Example]:
        """A name given, and a name asked for before one was given."""
        for language in LANGUAGES:
            for form in self.forms("name_ask", language):
                yield single("name", form, self.say("no_name", language))
            for name in self.tables.names[language]:
                for form in self.rng.sample(self.forms("name_is", language), 4):
                    yield single("name", form.format(n=name), self.say("name_hello", language, n=name))
