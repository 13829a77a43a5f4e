"""Gradio's own labels that no setting of its changes: ``assets/labels.js`` puts ours in their place."""

from __future__ import annotations

from chatglm_backend.sentences import Texts, load_texts


def own_labels(t: Texts) -> dict[str, str]:
    """Each English label of Gradio's that is another one in this language; one that ends in a space is a beginning."""
    theirs = load_texts("en")
    return {theirs(key): t(key) for key in sorted(theirs.codes) if key.startswith("gradio.") and theirs(key) != t(key)}
