"""Fine-tunes beside a model, through service and endpoint: added, chosen, and removed while it answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from chatglm_backend.api import openai_router
from chatglm_backend.checkpoint.manifest import read_manifest
from chatglm_backend.cli.app import main
from chatglm_backend.core import GenerationParams, GenerationRequest, TokenEvent
from chatglm_backend.errors import AdapterError, AdapterMismatch, AdapterNameUsed, UnknownAdapter
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from tests import tiny

pytestmark = pytest.mark.model


def lora_folder(path: Path, *, strength: float = 1.0, hidden: int = 64, out: int = 96) -> Path:
    """A LoRA on the first layer's query_key_value of a tiny ChatGLM2 or 3, as PEFT saves one."""
    path.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "THUDM/chatglm3-6b"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    start = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value"
    factors = {
        f"{start}.lora_A.weight": torch.randn(2, hidden),
        f"{start}.lora_B.weight": torch.randn(out, 2) * strength,
    }
    save_file(factors, path / "adapter_model.safetensors")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny ChatGLM3."""
    return tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3")


def qkv_shape(folder: Path) -> tuple[int, int]:
    """Rows and columns of the product that is adapted."""
    config = json.loads((folder / "config.json").read_text())
    groups, size = config["multi_query_group_num"], config["kv_channels"]
    return (config["num_attention_heads"] + 2 * groups) * size, config["hidden_size"]


def answer(service: Service, adapter: str, kernel: str = "") -> list[int]:
    """The ids of a greedy answer."""
    request = GenerationRequest(
        f"r-{adapter}", prompt="hi", params=GenerationParams(max_new_tokens=12), ignore_stop_ids=True, adapter=adapter
    )
    return [
        event.token_id for event in service.submit(request, kernel=kernel).events() if isinstance(event, TokenEvent)
    ]


def test_fine_tunes_come_and_go_while_the_base_answers(folder: Path, tmp_path: Path) -> None:
    """Nothing of the base is loaded again; wrong pairs, used names and missing ones are one sentence each.

    On the Compare page's other kernel they answer too.
    """
    out, hidden = qkv_shape(folder)
    lora = lora_folder(tmp_path / "lora", hidden=hidden, out=out)
    settings = Settings(threads=1, model=str(folder), adapter=(f"first={lora}",))
    service = Service(settings)
    service.load(str(folder))
    info = service.wait_ready(100)
    assert [(one.name, one.kind, one.size) for one in info.adapters] == [("first", "lora", 2)]
    assert info.first_adapter == "first"
    plain, changed = answer(service, ""), answer(service, "first")
    assert plain != changed
    assert answer(service, "", "bigdl") != answer(service, "first", "bigdl")
    added = service.add_adapter(str(lora))
    assert (added.name, answer(service, "lora")) == ("lora", changed)
    with pytest.raises(AdapterNameUsed):
        service.add_adapter(f"first={lora}")
    with pytest.raises(AdapterMismatch):
        service.add_adapter(str(lora_folder(tmp_path / "wide", hidden=2 * hidden, out=out)))
    merged = tmp_path / "merged"
    assert (
        main(["convert", "--model", str(folder), "--adapter", f"m={lora}", "--merge", "-o", str(merged), "--json"]) == 0
    )
    assert read_manifest(merged).merged == {"name": "m", "identity": added.identity}
    service.remove_adapter("first")
    with pytest.raises(UnknownAdapter):
        answer(service, "first")
    with pytest.raises(UnknownAdapter):
        service.remove_adapter("first")
    assert (answer(service, ""), [one.name for one in service.status().info.adapters]) == (plain, ["lora"])  # type: ignore[union-attr]
    service.close()


def test_a_fine_tune_that_does_not_fit_keeps_the_model_from_loading(folder: Path, tmp_path: Path) -> None:
    """Whoever named it wants its answers, not the base's."""
    wrong = lora_folder(tmp_path / "wrong", hidden=32)
    service = Service(Settings(threads=1, model=str(folder), adapter=(str(wrong),)))
    service.load(str(folder))
    with pytest.raises(AdapterMismatch):
        service.wait_ready(100)
    service.close()


def test_the_base_that_a_fine_tune_names_is_offered_where_it_is(folder: Path, tmp_path: Path) -> None:
    """By a path of the machine that trained too; it is not fetched for that."""
    wrong = lora_folder(tmp_path / "wrong", hidden=32)
    config = json.loads((wrong / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/root/chatglm2-6b"}
    (wrong / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "hub" / "models--THUDM--chatglm2-6b" / "snapshots" / "x").mkdir(parents=True)
    settings = Settings(threads=1, model=str(folder), adapter=(str(wrong),))
    service = Service(settings, env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")})
    service.load()
    with pytest.raises(AdapterError, match=r"lora_A.*--model THUDM/chatglm2-6b"):
        service.wait_ready(100)
    service.close()


def test_a_model_with_its_own_prefix_answers_with_it_and_takes_no_other(
    folder: Path, tmp_path: Path, compiled: Path
) -> None:
    """Also after it was converted; what is beside it would be trained on another base."""
    before, after = tiny.config_of("chatglm3"), json.loads((folder / "config.json").read_text()) | {"pre_seq_len": 5}
    width = 2 * before["num_layers"] * before["multi_query_group_num"] * before["kv_channels"]
    (folder / "config.json").write_text(json.dumps(after))
    (folder / "pytorch_model.bin.index.json").unlink()
    whole: dict[str, torch.Tensor] = {"transformer.prefix_encoder.embedding.weight": torch.randn(5, width)}
    for file in sorted(folder.glob("pytorch_model-*")):
        whole |= torch.load(file, weights_only=True)
        file.unlink()
    torch.save(whole, folder / "pytorch_model.bin")
    answers = []
    for cache in ("first", "second"):
        (tmp_path / cache).mkdir()
        (tmp_path / cache / "kernels").symlink_to(compiled)
    for cache in ("first", "second", "second"):
        service = Service(Settings(threads=1, cache=str(tmp_path / cache), max_running=1))
        service.load(str(folder))
        info = service.wait_ready(100)
        assert (info.adapters, info.prefix_rows) == ((), 5)
        answers.append(answer(service, ""))
        with pytest.raises(UnknownAdapter, match="Loaded: -"):
            answer(service, "other")
        with pytest.raises(AdapterError, match="P-Tuning prefix inside"):
            service.add_adapter(str(lora_folder(tmp_path / f"lora-{len(answers)}", hidden=128, out=256)))
        service.close()
        if cache == "first":
            whole["transformer.prefix_encoder.embedding.weight"] *= -2
            torch.save(whole, folder / "pytorch_model.bin")
    assert answers[0] != answers[1]
    assert answers[1] == answers[2]


def test_the_endpoint_lists_and_chooses_them(folder: Path, tmp_path: Path) -> None:
    """``base`` and ``base:name``; a foreign model's name means what the server was started with."""
    out, hidden = qkv_shape(folder)
    lora = lora_folder(tmp_path / "lora", hidden=hidden, out=out)
    settings = Settings(threads=1, model=str(folder), adapter=(str(lora),))
    service = Service(settings)
    service.load(str(folder))
    service.wait_ready(100)
    app = FastAPI()
    app.include_router(openai_router(service, settings))
    client = TestClient(app)
    names = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    assert names == ["chatglm3-6b", "chatglm3-6b:lora"]
    assert client.get("/v1/models/chatglm3-6b:lora").json()["id"] == "chatglm3-6b:lora"

    def ask(model: str | None) -> tuple[int, str, str]:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "temperature": 0}
        found = client.post("/v1/chat/completions", json=body if model is None else {**body, "model": model})
        if found.status_code != 200:
            return found.status_code, found.json()["error"]["code"], ""
        return 200, found.json()["model"], found.json()["choices"][0]["message"]["content"]

    base, tuned = ask(names[0]), ask(names[1])
    assert (base[:2], tuned[:2]) == ((200, names[0]), (200, names[1]))
    assert base[2] != tuned[2]
    assert ask("gpt-4o") == ask(None) == tuned
    assert ask("chatglm3-6b:nobody")[:2] == (404, "model_not_found")
    service.close()
