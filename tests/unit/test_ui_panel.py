"""The live panel: what it shows while an answer waits, and once it has ended."""

from __future__ import annotations

import re
from dataclasses import replace

from chatglm_backend.core import Completed, FinishReason, PrefillProgress, Queued, Timing, Usage
from chatglm_backend.sentences import Sentence, load_texts
from chatglm_backend.serving.ticket import Logged
from chatglm_backend.testing import scripted_info
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import model_facts, timing_panel

TEXTS = load_texts("en")


def _figures(answer: Answer | None) -> dict[str, str]:
    panel = timing_panel(TEXTS, answer, scripted_info(), 1_500_000_000)
    return dict(re.findall(r'data-figure="(\w+)"><dt>[^<]+</dt><dd>([^<]*)</dd>', panel))


def test_the_panel_shows_every_figure_of_an_answer_that_has_ended() -> None:
    """Times, rates, tokens, those reused and drafted, the wait, and what it ran on."""
    answer = Answer()
    usage = Usage(prompt_tokens=300, completion_tokens=40, cached_tokens=256, draft_tokens=20, accepted_draft_tokens=12)
    timing = Timing(queue_wait_s=1.5, ttft_s=2.25, prefill_tok_s=88.0, decode_tok_s=7.25, total_s=9.0)
    answer.take([Logged(0.0, Completed(FinishReason.STOP, usage, timing))])
    assert _figures(answer) == {
        "inference_time": "9.00 s",
        "ttft": "2.25 s",
        "prefill": "88.0 tok/s",
        "decode": "7.25 tok/s",
        "prompt_tokens": "300",
        "cached_tokens": "256",
        "completion_tokens": "40",
        "draft_tokens": "12 of 20",
        "queue": "1.50 s",
        "memory": "1.50 GB",
        "threads": "2",
        "kernel": "vnni",
    }


def test_the_panel_follows_the_queue_and_the_reused_tokens_while_an_answer_is_made() -> None:
    """The position while it waits; the tokens of the prompt that need not be read again."""
    answer = Answer()
    answer.take([Logged(0.0, Queued(3, 20.0))])
    assert _figures(answer)["queue"] == "position 3"
    answer.take([Logged(0.0, PrefillProgress(280, 300, cached=256))])
    assert (_figures(answer)["queue"], _figures(answer)["cached_tokens"]) == ("–", "256")


def test_the_panel_before_an_answer_is_empty_but_for_the_machine() -> None:
    """Nothing is invented."""
    known = {name: value for name, value in _figures(None).items() if value != "–"}
    assert known == {"memory": "1.50 GB", "threads": "2", "kernel": "vnni"}


def test_a_guessed_family_says_what_to_do_if_it_is_wrong() -> None:
    """In the page's language; a family that is certain needs no reason."""
    info = replace(scripted_info(), family="chatglm2", family_reason=Sentence("family.assumed"))
    facts = model_facts(load_texts("zh"), info)
    assert "ChatGLM2-6B（文件夹中没有 ChatGLM3 的字样（如果是，请加 --family chatglm3））" in facts
    certain = replace(info, family_reason=Sentence("family.low_bit", version=1))
    assert "<dd>ChatGLM2-6B</dd>" in model_facts(load_texts("en"), certain)
