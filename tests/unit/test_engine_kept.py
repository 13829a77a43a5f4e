"""What the disk knows of a conversation, in the engine: the same text with it, without it, and from a damaged one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chatglm_backend.core import CancelToken, GenerationParams, GenerationRequest, KeptAs
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.kept_prefixes import KeptPrefixes
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.models.base import ChatModel, build_model
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.store.kv_blocks import BLOCK, KVBlocks
from tests.engine_fakes import ByteTokenizer
from tests.small_models import random_tensors, small_config
from tests.unit.checkpoint_helpers import flip_byte

PLACE = KeptAs("ada", "one")
PROMPT = "".join(chr(97 + i * i % 26) for i in range(300))


@pytest.fixture(scope="module", params=[torch.float16, torch.int8])
def model(request: pytest.FixtureRequest) -> ChatModel:
    """A small random model with 16 or 8 bits of keys and values."""
    return model_with(request.param)


def model_with(kv_dtype: torch.dtype) -> ChatModel:
    """A small random model."""
    config = small_config("chatglm2")
    return build_model(config, DenseWeights(random_tensors(config)), kv_dtype=kv_dtype)


class _Server:
    """One process after another: an engine that begins with nothing but what the disk knows."""

    def __init__(self, model: ChatModel, folder: Path, identity: str = "weights") -> None:
        self.kept = KeptPrefixes(KVBlocks(folder, max_bytes=1 << 30), identity)
        options = EngineOptions(draft_tokens=0)
        self.engine = Engine(model, _Letters(), options, kept=self.kept)

    def answer(self, prompt: str, kept_as: KeptAs | None = PLACE, **changes: Any) -> tuple[int, list[int]]:
        """Reused tokens, and the answer's ids."""
        params = GenerationParams(max_new_tokens=20, temperature=0.0)
        request = GenerationRequest("r", prompt=prompt, params=params, kept_as=kept_as, ignore_stop_ids=True)
        sequence = self.engine.start(replace(request, **changes), CancelToken(), 0.0)
        while not sequence.finished:
            self.engine.step()
        self.kept.wait(30)
        return sequence.cached_tokens, sequence.generated


class _Letters(ByteTokenizer):
    """Ids below the small model's vocabulary."""

    def encode_prompt(self, prompt: str, prompt_format: Any) -> Any:
        """Letters count from 0."""
        encoded = super().encode_prompt(prompt, prompt_format)
        return replace(encoded, ids=tuple(token % 90 for token in encoded.ids))


def test_a_restarted_server_goes_on_where_it_was(model: ChatModel, tmp_path: Path) -> None:
    """A conversation's next question reads only what is new, and is answered as without the disk."""
    first, ids = _Server(model, tmp_path).answer(PROMPT)
    follow_up = PROMPT + " and more"
    cached, answer = _Server(model, tmp_path).answer(follow_up)
    assert (first, cached) == (0, len(PROMPT))
    assert (0, answer) == _Server(model, tmp_path / "none").answer(follow_up)
    assert _Server(model, tmp_path).answer(PROMPT) == (len(PROMPT) - 1, ids)


OTHERS = [(KeptAs("ben", "one"), "weights"), (KeptAs("ada", "two"), "weights"), (None, "weights"), (PLACE, "others")]


@pytest.mark.parametrize(("kept_as", "identity"), OTHERS)
def test_others_start_anew(model: ChatModel, tmp_path: Path, kept_as: KeptAs | None, identity: str) -> None:
    """Another visitor, another conversation, no conversation, other weights."""
    _Server(model, tmp_path).answer(PROMPT)
    assert _Server(model, tmp_path, identity).answer(PROMPT, kept_as)[0] == 0


def test_another_number_format_starts_anew(tmp_path: Path) -> None:
    """What 16 bits were kept in is nothing in 8."""
    _Server(model_with(torch.float16), tmp_path).answer(PROMPT)
    assert _Server(model_with(torch.int8), tmp_path).answer(PROMPT)[0] == 0


def test_a_damaged_block_is_read_anew(model: ChatModel, tmp_path: Path) -> None:
    """What lies before it is used; the text is the same, and the block whole again afterwards."""
    _, ids = _Server(model, tmp_path).answer(PROMPT)
    blocks = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    flip_byte(blocks[2])
    assert _Server(model, tmp_path).answer(PROMPT) == (2 * BLOCK, ids)
    assert _Server(model, tmp_path).answer(PROMPT) == (len(PROMPT) - 1, ids)


def test_short_ones_are_not_worth_it(model: ChatModel, tmp_path: Path) -> None:
    """Nor does anything that is off, or cannot be written, touch an answer."""
    _Server(model, tmp_path).answer("short")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    _, ids = _Server(model, tmp_path / "file").answer(PROMPT)
    assert ids == _Server(model, tmp_path / "free").answer(PROMPT)[1]
