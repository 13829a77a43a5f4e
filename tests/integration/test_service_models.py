"""The real service with small INT4 models: every family answers, and models can be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm_backend.core import Completed, GenerationParams, GenerationRequest, Message, ModelState, TokenEvent
from chatglm_backend.errors import LfsPointerFile
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from tests import tiny

pytestmark = pytest.mark.model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One thread and a cache of its own."""
    return Settings(threads=1, cache=str(tmp_path / "cache"), drain_seconds=5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_answers(family: tiny.Family, settings: Settings, tmp_path: Path) -> None:
    """Loading converts and maps; the streamed texts are the decoded ids."""
    folder = tiny.build_checkpoint(tmp_path / tiny.NAMES[family], family)
    service = Service(settings)
    service.load(str(folder))
    info = service.wait_ready(100)
    request = GenerationRequest(
        "a", messages=(Message("user", "What is AI?"),), params=GenerationParams(max_new_tokens=6), ignore_stop_ids=True
    )
    events = list(service.submit(request).events())
    service.close()
    ids = [event.token_id for event in events if isinstance(event, TokenEvent)]
    text = "".join(event.text for event in events if isinstance(event, (TokenEvent, Completed)))
    assert (info.family, info.threads, len(ids)) == (family, 1, 6)
    assert text != ""
    assert service.status().state is ModelState.NONE


def test_changing_the_model_while_one_answers(settings: Settings, tmp_path: Path) -> None:
    """The answer in work ends by itself; then the other family answers."""
    first = tiny.build_checkpoint(tmp_path / "chatglm-6b", "chatglm")
    second = tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3", form="safetensors")
    service = Service(settings)
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
    assert info.family == "chatglm3"


def test_a_broken_folder_leaves_the_service_usable(settings: Settings, tmp_path: Path) -> None:
    """A pointer file is named; a good folder loads afterwards."""
    good = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    broken = tiny.build_checkpoint(tmp_path / "broken" / "chatglm2-6b", "chatglm2", shards=1)
    (broken / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid x\n", encoding="utf-8")
    service = Service(settings)
    service.load(str(broken))
    with pytest.raises(LfsPointerFile):
        service.wait_ready(100)
    assert service.status().state is ModelState.FAILED
    service.load(str(good))
    assert service.wait_ready(100).family == "chatglm2"
    service.close()


def test_the_same_prompt_runs_on_both_kernels(settings: Settings, tmp_path: Path) -> None:
    """Each has an engine of its own, and both run at once, each to its end."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    service = Service(settings)
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
    assert all(isinstance(end, Completed) and end.usage.completion_tokens == 8 for end in ends)
