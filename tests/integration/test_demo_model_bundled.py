"""The bundled demonstration model: small, whole, and able to answer its own examples."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from chatglm_backend.adapters.folder import inspect_adapter
from chatglm_backend.adapters.load import load_adapter
from chatglm_backend.checkpoint.default import bundled_base, bundled_folder
from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint, open_low_bit
from chatglm_backend.checkpoint.manifest import verify_files
from chatglm_backend.core import CancelToken, Completed, FinishReason, GenerationParams, GenerationRequest, Message
from chatglm_backend.engine.engine import Engine
from chatglm_backend.errors import AdapterMismatch
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import build_model
from chatglm_backend.tokenizers.base import load_tokenizer
from tools.demo_model.fine_tune import ENDINGS, NAMES

pytestmark = pytest.mark.model

REFUSALS = ("不知道怎么回答", "do not know that")


@pytest.fixture(scope="module")
def checkpoint() -> LowBitCheckpoint:
    """The bundled checkpoint, mapped."""
    return open_low_bit(bundled_folder())


@pytest.fixture(scope="module")
def engine(checkpoint: LowBitCheckpoint) -> Engine:
    """An engine on the bundled checkpoint, with bigdl's kernel."""
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder, "chatglm")
    return Engine(build_model(checkpoint.config, Int4Weights(checkpoint, "bigdl")), tokenizer)


def answer(engine: Engine, most: int = 64, **request: object) -> tuple[str, FinishReason | None]:
    """The greedy answer of at most so many tokens, and why it ended."""
    params = GenerationParams(max_new_tokens=most)
    text, reason = "", None
    for event in engine.generate(GenerationRequest(request_id="t", params=params, **request), CancelToken()):  # type: ignore[arg-type]
        text += getattr(event, "text", "")
        if isinstance(event, Completed):
            reason = event.finish_reason
    return text, reason


def examples() -> list[str]:
    """The prompts that the page offers."""
    data = json.loads((bundled_folder() / "examples.json").read_text(encoding="utf-8"))
    return [prompt for language in ("zh", "en") for prompt in data[language]]


def test_the_folder_takes_at_most_16_megabytes() -> None:
    """Everything that the repository carries of the model, card included."""
    total = sum(file.stat().st_size for file in bundled_folder().rglob("*") if file.is_file())
    assert total <= 16_000_000


def test_the_files_are_whole(checkpoint: LowBitCheckpoint) -> None:
    """Every file has the hash of the manifest."""
    verify_files(checkpoint.folder, checkpoint.manifest, full=True)


@pytest.mark.parametrize("form", ["recipe", "raw"])
def test_an_answer_goes_on_where_it_was_cut(engine: Engine, form: str) -> None:
    """What was begun stands behind the control ids, so that both parts are the answer that is not cut."""
    prompt = "AI是什么？" if form == "recipe" else "问：AI是什么？\n答："
    whole, _ = answer(engine, prompt=prompt, prompt_format=form)
    for count in (4, 12):
        begun, _ = answer(engine, count, prompt=prompt, prompt_format=form)
        rest, _ = answer(engine, prompt=prompt, prompt_format=form, begun=begun)
        assert (begun + rest, len(begun) < len(whole)) == (whole, True)


@pytest.mark.parametrize(("prompt", "words"), [("AI是什么？", "人工智能"), ("What is AI?", "artificial intelligence")])
def test_the_default_prompt_is_answered_within_64_tokens(engine: Engine, prompt: str, words: str) -> None:
    """The original recipe's two prompts get a correct answer that ends by itself."""
    text, reason = answer(engine, prompt=prompt)
    assert words in text
    assert reason is FinishReason.STOP


@pytest.mark.parametrize("prompt", examples())
def test_the_examples_on_the_page_are_answered(engine: Engine, prompt: str) -> None:
    """No example prompt gets the sentence for unknown things, and every answer ends."""
    text, reason = answer(engine, prompt=prompt)
    assert text.strip()
    assert not any(refusal in text for refusal in REFUSALS)
    assert reason is FinishReason.STOP


def test_an_unknown_question_gets_the_honest_sentence(engine: Engine) -> None:
    """What it does not know, it says, and it names the real model."""
    text, _ = answer(engine, prompt="写一首关于春天的诗")
    assert "ChatGLM-6B" in text
    assert "不知道" in text


def test_a_second_turn_uses_the_first(engine: Engine) -> None:
    """The same follow-up after another question gets another answer."""
    first = Message("user", "法国的首都是哪里"), Message("assistant", "法国的首都是巴黎。")
    text, _ = answer(engine, messages=(*first, Message("user", "那德国呢？")))
    assert "柏林" in text


def test_the_shipped_fine_tunes_end_their_answers_in_their_own_way(checkpoint: LowBitCheckpoint) -> None:
    """A LoRA with a wish, a prefix with a question, in either language; without them nothing changes."""
    weights = Int4Weights(checkpoint, "bigdl")
    engine = Engine(build_model(checkpoint.config, weights), load_tokenizer(checkpoint.tokenizer_folder, "chatglm"))
    folders = [inspect_adapter(bundled_folder() / name) for name in NAMES.values()]
    engine.adapters = {one.name: load_adapter(one, checkpoint.config, base=weights) for one in folders}
    prompts = examples()
    plain = [answer(engine, prompt=prompt)[0] for prompt in prompts]
    for kind, name in NAMES.items():
        tuned = [answer(engine, prompt=prompt, adapter=name)[0] for prompt in prompts]
        ends = tuple(ENDINGS[kind].values())
        assert not any(text.endswith(ends) for text in plain)
        assert sum(text.endswith(ends) for text in tuned) >= len(prompts) - 2
        assert sum(text.startswith(own) for text, own in zip(tuned, plain, strict=True)) >= len(prompts) - 1


@pytest.mark.parametrize("name", NAMES.values())
def test_a_fine_tune_of_an_earlier_bundled_model_is_refused(checkpoint: LowBitCheckpoint, name: str) -> None:
    """All its tensors fit: only the name of its base tells. The shipped ones name the present base."""
    shipped = inspect_adapter(bundled_folder() / name)
    assert shipped.base == bundled_base()
    for earlier in ("chatglm-demo", "chatglm-demo@00000000"):
        with pytest.raises(AdapterMismatch, match="earlier version of the bundled model"):
            load_adapter(replace(shipped, base=earlier), checkpoint.config, base=Int4Weights(checkpoint, "bigdl"))
