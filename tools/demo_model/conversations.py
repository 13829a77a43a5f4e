"""Follow-ups of two and three turns, made from the single questions."""

from __future__ import annotations

from collections.abc import Iterator

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
                yield Example("name", (self.introduction(self.any_name(language), language),))

    def introduction(self, name: str, language: str) -> Turn:
        """A name given."""
        return self.pick("name_is", language, n=name), self.say("name_hello", language, n=name)

    def any_name(self, language: str) -> str:
        """A trained name, or one put together from pieces; never a held-out one."""
        names = self.tables.names
        held = set(names["zhheld"] + names["enheld"])
        for _ in range(100):
            if self.rng.random() < 0.4:
                name = self.rng.choice(names[language])
            elif language == "zh":
                name = self.rng.choice(names["zh"])[0] + common_character(self.rng)
                name = name if self.rng.random() < 0.6 else name + common_character(self.rng)
            else:
                name = self.spelled() if self.rng.random() < 0.6 else self.invented("en").title()
            if name not in held:
                return name
        return names[language][0]

    def spelled(self) -> str:
        """A name put together from syllables as English names have them, to be copied, not remembered."""
        syllables, choice = self.tables.syllables, self.rng.choice
        middle = "".join(choice(syllables["middles"]) for _ in range(choice([1, 1, 2])))
        return (choice(syllables["starts"]) + middle + choice(syllables["ends"])).title()

    def name_talk(self, language: str) -> tuple[Turn, ...]:
        """A name, perhaps something else, then the question for the name."""
        name = self.any_name(language)
        given = self.introduction(name, language)
        asked = (self.pick("name_ask", language), self.say("name", language, n=name))
        if self.rng.random() < 0.35:
            between = self.rng.choice(self._singles)
            if between.group != "name":
                return (given, *between.turns, asked)
        return (given, asked)

    def more_talk(self, language: str) -> tuple[Turn, ...]:
        """Ask "what about ...?" after a capital, a word, a sum, a topic or a fact; sometimes about a thing unknown."""
        kind = self.rng.choice(["capital", "capital", "word", "word", "topic", "fact", "sum"])
        if kind == "capital":
            a, b = self.rng.sample(self.tables.capitals, 2)
            fields = {"c": a.country[language], "k": a.city[language]}
            first = (self.pick("capital", language, **fields), self.say("capital", language, **fields))
            thing = b.country[language]
            answer = self.say("capital", language, c=thing, k=b.city[language])
            if self.rng.random() < 0.2:
                thing = self.rng.choice([*self.tables.unknown[f"{language}_places"], self.invented(language).title()])
                answer = self.say("refusal", language)
        elif kind == "word":
            (z1, e1), (z2, e2) = self.rng.sample(self.tables.words, 2)
            to_english = self.rng.random() < (0.7 if language == "zh" else 0.3)
            way = "to_english" if to_english else "to_chinese"
            first = (self.pick(way, language, z=z1, e=e1), self.say(way, language, z=z1, e=e1))
            thing, answer = (z2 if to_english else e2), self.say(way, language, z=z2, e=e2)
        elif kind == "topic":
            one, two = self.rng.sample([t for t in self.tables.topics if t.terms], 2)
            first = (self.pick("term", language, t=self.rng.choice(one.terms[language])), one.answers[language])
            thing, answer = self.rng.choice(two.terms[language]), two.answers[language]
            if self.rng.random() < 0.2:
                thing, answer = self.rng.choice(self.tables.unknown[f"{language}_nouns"]), self.say("refusal", language)
        elif kind == "fact":
            first, thing, answer = self.relatives(language)
        else:
            c, d = (self.rng.choice([s for s in self.some_sums() if not held_out(*s)]) for _ in range(2))
            first = (self.sum_question(self.sum_text(*c, language), language), sum_answer(*c, language))
            thing, answer = self.sum_text(*d, language), sum_answer(*d, language)
        return (first, (self.pick("more", language, x=thing), answer))

    def relatives(self, language: str) -> tuple[Turn, str, str]:
        """A fact's question and answer, something of the same kind, and what is known of it."""
        family = self.rng.choice(self.tables.families)
        one, two = self.rng.sample(sorted(family["members"]), 2)
        facts = {fact.key: fact for fact in self.tables.facts}
        first = self.rng.choice(facts[one].questions[language]), facts[one].answers[language]
        strangers = family["strangers"][language]
        if strangers and self.rng.random() < 0.3:
            return first, self.rng.choice(strangers), self.say("refusal", language)
        return first, family["members"][two][language], facts[two].answers[language]

    def some_sums(self) -> list[tuple[int, str, int]]:
        """A few random additions and subtractions, the first always trained on."""
        rng = self.rng
        return [(1, "+", 1), *((rng.randint(0, 99), rng.choice("+-"), rng.randint(0, 99)) for _ in range(8))]

    def other_language(self, language: str) -> tuple[Turn, ...]:
        """The same answer again in the other language."""
        other = "en" if language == "zh" else "zh"
        if self.rng.random() < 0.25:
            capital = self.rng.choice(self.tables.capitals)
            pair = {x: self.say("capital", x, c=capital.country[x], k=capital.city[x]) for x in LANGUAGES}
            question = self.pick("capital", language, c=capital.country[language])
        else:
            topic = self.rng.choice([*self.tables.topics, *self.tables.topics, *self.tables.facts])
            pair = topic.answers
            question = self.rng.choice(topic_questions(topic, language, self.rng))
        asked = self.rng.choice(self.tables.in_other_language[f"{language} {other}"])
        return ((question, pair[language]), (asked, pair[other]))
