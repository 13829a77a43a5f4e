"""The real service with small INT4 models: changed while one answers, and on two kernels at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chatglm_backend.checkpoint.cache import delete_cached, list_cache
from chatglm_backend.core import Completed, GenerationParams, GenerationRequest, KeptAs, ModelState
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings, with_cache
from tests import tiny

pytestmark = pytest.mark.model
SETTINGS = Settings(threads=1, drain_seconds=5)


def test_changing_the_model_while_one_answers(tmp_path: Path) -> None:
    """The answer in work ends by itself; then the other family answers."""
    first = tiny.build_checkpoint(tmp_path / "chatglm-6b", "chatglm")
    second = tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3", form="safetensors")
    service = Service(SETTINGS)
    service.load(str(first))
    service.wait_ready(100)
    params = GenerationParams(max_new_tokens=200)
    ticket = service.submit(GenerationRequest("a", prompt="hi", params=params, ignore_stop_ids=True))
    service.load(str(second))
    last = list(ticket.events())[-1]
    info = service.wait_ready(100)
    service.close()
    assert isinstance(last, Completed)
    assert last.usage.completion_tokens == 200
    assert (info.family, info.threads, service.status().state) == ("chatglm3", 1, ModelState.NONE)


def test_the_same_prompt_runs_on_both_kernels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each has an engine of its own, and both run at once, each to its end. Prompts are logged where that is wished."""
    caplog.set_level("INFO", "chatglm_backend")
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    service = Service(replace(SETTINGS, log_prompts=True, context=40))
    service.load(str(folder))
    info = service.wait_ready(100)
    params = GenerationParams(max_new_tokens=8)
    tickets = [
        service.submit(GenerationRequest(name, prompt="hi", params=params, ignore_stop_ids=True), kernel=name)
        for name in ("", "bigdl")
    ]
    ends = [list(ticket.events())[-1] for ticket in tickets]
    service.close()
    assert info.other_kernels == ("bigdl",)
    assert info.context_limit == 40 < info.model_context
    accepted = [vars(record)["facts"] for record in caplog.records if record.message == "request accepted"]
    assert [facts["prompt"] for facts in accepted] == ["hi", "hi"]
    assert all(isinstance(end, Completed) and end.usage.completion_tokens == 8 for end in ends)


def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Without reading it again, until it is deleted; where history or the room for it is off, nothing is kept."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3")
    place = KeptAs("ann", "first")
    prompt = "".join(chr(97 + i * i % 26) for i in range(300))

    def reused(settings: Settings, *, forget: bool = False) -> int:
        service = Service(settings)
        service.load(str(folder))
        service.wait_ready(100)
        if forget:
            service.forget(place)
        params = GenerationParams(max_new_tokens=4)
        ticket = service.submit(GenerationRequest("a", prompt=prompt, params=params, kept_as=place))
        last = list(ticket.events())[-1]
        service.close()
        assert isinstance(last, Completed)
        return last.usage.cached_tokens

    for off in (replace(SETTINGS, history=False), replace(SETTINGS, kv_disk_mb=0)):
        assert (reused(off), reused(off)) == (0, 0)
    env = with_cache(SETTINGS, os.environ)
    assert all(entry.kind != "kv" for entry in list_cache(env))
    assert reused(SETTINGS) == 0
    assert reused(SETTINGS) > 200
    (entry,) = (entry for entry in list_cache(env) if entry.kind == "kv")
    assert entry.nbytes > 0
    assert reused(SETTINGS, forget=True) == 0
    delete_cached(entry.name, env)
    assert reused(SETTINGS) == 0
