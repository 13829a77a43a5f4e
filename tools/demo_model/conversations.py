"""Follow-ups of two and three turns, made from the single questions."""

from __future__ import annotations

from collections.abc import Iterator

from tools.demo_model import templates as tp
from tools.demo_model.examples import LANGUAGES, Example, Turn, common_character, sum_answer, topic_questions
from tools.demo_model.singles import Singles
from tools.demo_model.sums import held_out


class Conversations(Singles):
    """Adds the groups of several turns."""

    def conversations(self) -> Iterator[Example]:
        """Follow-ups of two and three turns."""
        for language in LANGUAGES:
            for _ in range(20000):
                yield Example("follow_name", self.name_talk(language))
            for _ in range(8000):
                yield Example("follow_more", self.more_talk(language))
            for _ in range(4000):
                yield Example("follow_other", self.other_language(language))
            for _ in range(10000):
                name = self.any_name(language)
                yield Example(
                    "name", ((self.pick(tp.NAME_IS, language, n=name), tp.NAME_HELLO[language].format(n=name)),)
                )
        for _ in range(6000):
            first, second = self.rng.sample(self._singles, 2)
            if second.group != "name" or first.group != "name":
                yield Example("follow_any", (*first.turns, *second.turns))

    def any_name(self, language: str) -> str:
        """A trained name, or one put together from pieces; never a held-out one."""
        held = set(self.names["zhheld"] + self.names["enheld"])
        for _ in range(100):
            if self.rng.random() < 0.4:
                name = self.rng.choice(self.names[language])
            elif language == "zh":
                name = self.rng.choice(self.names["zh"])[0] + common_character(self.rng)
                name = name if self.rng.random() < 0.6 else name + common_character(self.rng)
            else:
                name = self.spelled() if self.rng.random() < 0.6 else self.invented("en").title()
            if name not in held:
                return name
        return self.names[language][0]

    def spelled(self) -> str:
        """A name put together from syllables as English names have them, to be copied, not remembered."""
        starts = [
            "b",
            "br",
            "c",
            "ch",
            "cl",
            "d",
            "dr",
            "f",
            "g",
            "gr",
            "h",
            "j",
            "k",
            "l",
            "m",
            "n",
            "p",
            "ph",
            "r",
            "s",
            "sh",
            "st",
            "t",
            "th",
            "v",
            "w",
            "z",
            "",
        ]
        middles = [
            "a",
            "e",
            "i",
            "o",
            "u",
            "ai",
            "ar",
            "au",
            "ea",
            "el",
            "en",
            "er",
            "ia",
            "ie",
            "il",
            "in",
            "io",
            "on",
            "or",
            "ou",
            "an",
            "am",
            "em",
            "oli",
            "ara",
            "ega",
            "ona",
        ]
        ends = [
            "n",
            "l",
            "s",
            "r",
            "th",
            "ck",
            "ne",
            "la",
            "na",
            "ra",
            "ie",
            "y",
            "ph",
            "d",
            "ny",
            "ry",
            "ah",
            "ette",
            "son",
            "bert",
            "ard",
            "a",
            "o",
            "x",
            "",
        ]
        middle = "".join(self.rng.choice(middles) for _ in range(self.rng.choice([1, 1, 2])))
        return (self.rng.choice(starts) + middle + self.rng.choice(ends)).title()

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
        """Ask "what about ...?" after a capital, a word, a sum or a topic; sometimes about a thing unknown."""
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
            first = (self.sum_question(self.sum_text(*one, language), language), sum_answer(*one, language))
            thing, answer = self.sum_text(*two, language), sum_answer(*two, language)
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
            question = self.rng.choice(topic_questions(topic, language, self.rng))
        asked = self.rng.choice(tp.IN_OTHER[language, other].split("|"))
        return ((question, pair[language]), (asked, pair[other]))
