"""Writes the model card from the scores; run as ``python -m tools.demo_model.card`` after ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch

from chatglm_backend.checkpoint.default import bundled_folder
from tools.demo_model.corpus import OUT
from tools.demo_model.evaluate import SEEN_SET, share
from tools.demo_model.examples import EVALUATION_SETS
from tools.demo_model.tables import HERE

Row = Mapping[str, object]
TARGETS = {"seen": 98, "paraphrase": 80, "sums": 90, "unknown": 85, "follow-up": 75}
NAMES = {
    "seen": "seen questions (exact answer; a fixed sample of the corpus)",
    "paraphrase": "topics, new wording",
    "self": "greetings and itself, new wording",
    "capitals": "capitals, new wording",
    "facts": "basic facts, new wording",
    "words": "word translation, new wording",
    "sums": "sums never trained on",
    "unknown": "unknown things: honest sentence",
    "follow-up": "follow-ups of two or three turns",
}
TITLES = {
    SEEN_SET: "corpus",
    **dict(zip(EVALUATION_SETS, ("first set", "second set", "third set", "fourth set"), strict=True)),
}


def table(scores: Mapping[str, Sequence[Row]], *sets: str) -> str:
    """Scores per ability of the named sets, INT4 and fp32 side by side."""
    lines = ["| ability | prompts | INT4 | fp32 | target |", "|---|---|---|---|---|"]
    for name in sets:
        for ability in abilities(scores, name):
            cells = [share(scores[kind], name, ability) for kind in ("int4", "fp32")]
            right = " | ".join(f"{good} ({100 * good / total:.1f} %)" for good, total in cells)
            target = f"≥ {TARGETS[ability]} %" if ability in TARGETS else ""
            lines.append(f"| {NAMES[ability]} | {cells[0][1]} | {right} | {target} |")
    return "\n".join(lines)


def abilities(scores: Mapping[str, Sequence[Row]], name: str) -> list[str]:
    """The abilities that a set asks for, in the card's order."""
    asked = {row["ability"] for row in scores["int4"] if row["set"] == name}
    return [ability for ability in NAMES if ability in asked]


def failures(scores: Mapping[str, Sequence[Row]], *sets: str) -> str:
    """Every wrong answer of either arithmetic in the named sets."""
    lines = []
    for low, full in zip(scores["int4"], scores["fp32"], strict=True):
        if low["set"] not in sets or (low["right"] and full["right"]):
            continue
        name = low.get("id") or f"seen, {low['group']}"
        wrong = " and ".join(kind for kind, row in (("INT4", low), ("fp32", full)) if not row["right"])
        answer = str((full if low["right"] else low)["answer"]).replace("\n", " ")
        prompt = str(low["prompt"]).replace(" | ", " → ")
        lines.append(f"- **{name}** ({wrong}): {prompt} ⇒ “{answer}”")
    return "\n".join(lines) or "None."


def missed(scores: Mapping[str, Sequence[Row]]) -> str:
    """Which targets INT4 misses in which set, and by how much."""
    lines = []
    for name, title in TITLES.items():
        for ability in abilities(scores, name):
            good, total = share(scores["int4"], name, ability)
            percent = 100 * good / total
            target = TARGETS.get(ability, 0)
            if percent < target:
                lines.append(f"- {title}, {NAMES[ability]}: {percent:.1f} %, {target - percent:.1f} points short.")
    return "\n".join(lines) or "None."


def main() -> None:
    """Fill the card's template."""
    scores = json.loads((OUT / "scores.json").read_text(encoding="utf-8"))
    state = torch.load(OUT / "state.pt")
    parameters = sum(tensor.numel() for tensor in state["network"].values())
    folder = bundled_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".md")
    text = (HERE / "card_template.md").read_text(encoding="utf-8")
    first, *later = EVALUATION_SETS
    fields = {
        "{parameters}": f"{parameters / 1e6:.1f} million",
        "{megabytes}": f"{size / 1e6:.1f} MB",
        "{steps}": f"{state['step']:,}",
        "{table}": table(scores, SEEN_SET, first),
        "{tokens}": f"{state['tokens'] / 1e6:.1f} million",
        "{missed}": missed(scores),
        "{failures}": failures(scores, SEEN_SET, first),
    }
    for number, name in enumerate(later, start=2):
        fields |= {f"{{table_{number}}}": table(scores, name), f"{{failures_{number}}}": failures(scores, name)}
    for mark, value in fields.items():
        text = text.replace(mark, value)
    (folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
