"""Reads the hand-written tables: topics, facts, capitals, words, names and unknown things.

Knows the file formats only; nothing of templates, tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing the model can explain, with its answer in both languages."""

    key: str
    terms: dict[str, list[str]] = field(default_factory=dict)
    questions: dict[str, list[str]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capital:
    """A country and its capital in both languages."""

    country: dict[str, str]
    city: dict[str, str]


def read_lines(name: str) -> list[str]:
    """The lines of a table without comments and blank lines."""
    text = (HERE / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_wordings(name: str) -> dict[str, list[list[str]]]:
    """The lines of questions under each ``@key`` of a wordings file."""
    blocks: dict[str, list[list[str]]] = {}
    key = ""
    for line in read_lines(name):
        if line.startswith("@"):
            key = line[1:]
        else:
            blocks.setdefault(key, []).append(line.split("|"))
    return blocks


def add_wordings(topics: list[Topic], blocks: dict[str, list[list[str]]], languages: tuple[str, ...]) -> None:
    """Add each block's lines, one a language, to the topic of its key. KeyError for an unknown key."""
    found = {topic.key: topic for topic in topics}
    for key, lines in blocks.items():
        for language, questions in zip(languages, lines, strict=True):
            found[key].questions[language] += questions


def read_topics() -> list[Topic]:
    """All topics of ``topics.txt`` with the further questions of ``wordings_*.txt``."""
    topics: list[Topic] = []
    for line in read_lines("topics.txt"):
        if line.startswith("@"):
            topics.append(Topic(line[1:]))
            continue
        kind, _, rest = line.partition(" ")
        if kind == "t":
            zh, en = rest.split(" ; ")
            topics[-1].terms.update(zh=zh.split("|"), en=en.split("|"))
        else:
            language = {"z": "zh", "e": "en"}[kind[0]]
            if kind[1] == "q":
                topics[-1].questions[language] = rest.split("|")
            else:
                topics[-1].answers[language] = rest
    for language in ("zh", "en"):
        add_wordings(topics, read_wordings(f"wordings_{language}.txt"), (language,))
    return topics


def read_facts() -> list[Topic]:
    """The facts of ``facts.txt`` as topics without terms; the first Chinese question is the key."""
    facts: list[Topic] = []
    for line in read_lines("facts.txt"):
        zh_q, zh_a, en_q, en_a = line.split(" ; ")
        questions = {"zh": zh_q.split("|"), "en": en_q.split("|")}
        facts.append(Topic(questions["zh"][0], {}, questions, {"zh": zh_a, "en": en_a}))
    add_wordings(facts, read_wordings("wordings_facts.txt"), ("zh", "en"))
    return facts


def read_capitals() -> list[Capital]:
    """All countries of ``capitals.txt``."""
    capitals = []
    for line in read_lines("capitals.txt"):
        zh_country, en_country, zh_city, en_city = (cell.replace("_", " ") for cell in line.split(" "))
        capitals.append(Capital({"zh": zh_country, "en": en_country}, {"zh": zh_city, "en": en_city}))
    return capitals


def read_words() -> list[tuple[str, str]]:
    """The (Chinese, English) word pairs of ``words.txt``."""
    pairs = [pair for line in read_lines("words.txt") for pair in line.split(";") if pair]
    return [(pair.split(" ", 1)[0], pair.split(" ", 1)[1]) for pair in pairs]


def read_stories() -> dict[tuple[str, str], list[str]]:
    """The forms of ``stories.txt`` by language and sign."""
    rows = [line.split(" ", 2) for line in read_lines("stories.txt")]
    return {(language, sign): forms.split("|") for language, sign, forms in rows}


def read_names() -> dict[str, list[str]]:
    """Names by kind: ``zh`` and ``en`` for training, ``zhheld`` and ``enheld`` never trained on."""
    rows = [line.split() for line in read_lines("names.txt")]
    return {row[0]: row[1:] for row in rows}


def read_unknown() -> dict[str, list[str]]:
    """Sections of ``unknown.txt``: nouns, requests and places the model must not pretend to know."""
    sections: dict[str, list[str]] = {}
    name = ""
    for line in [*read_lines("unknown.txt"), *read_lines("more_unknown.txt")]:
        if line.startswith("["):
            name = line[1:-1]
            continue
        mark = "|" if "requests" in name else (";" if ";" in line else " ")
        sections.setdefault(name, []).extend(item.strip() for item in line.split(mark) if item.strip())
    return sections
