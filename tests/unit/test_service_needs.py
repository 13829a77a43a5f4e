"""How long a context a model gets, and what is too large for a machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chatglm_backend.checkpoint.known import MODELS, low_bit_bytes
from chatglm_backend.checkpoint.places import closed_to_others
from chatglm_backend.errors import ModelTooLarge
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.service.needs import context_for, kv_bytes
from chatglm_backend.service.speed import measured, recall, remember
from chatglm_backend.settings import Settings

LONG = MODELS["chatglm3-6b-32k"].config
PLENTY = 64 * 10**9
WEIGHTS = low_bit_bytes(LONG)
KV = 28 * 1024


@pytest.mark.parametrize(
    ("model", "asked", "free", "tokens"),
    [
        ("chatglm-6b", "auto", PLENTY, 2048),
        ("chatglm3-6b-32k", "auto", PLENTY, 8192),
        ("chatglm3-6b-32k", 20_000, PLENTY, 20_000),
        ("chatglm3-6b-32k", 100_000, PLENTY, 32_768),
        ("chatglm3-6b-32k", "auto", WEIGHTS + 5000 * KV, 3000),  # six tenths of what is left
        ("chatglm3-6b-32k", "auto", WEIGHTS + 600 * KV, 512),
        ("chatglm3-6b-32k", 4000, WEIGHTS + 4000 * KV, 4000),
    ],
)
def test_a_context_is_what_is_usual_or_asked_for_and_fits(model: str, asked: int | str, free: int, tokens: int) -> None:
    """Never more than the model's; by itself no more than 8192 and what memory admits."""
    assert context_for(model, MODELS[model].config, Settings(context=asked), free) == tokens


@pytest.mark.parametrize(("asked", "free"), [("auto", WEIGHTS + 511 * KV), (32_768, WEIGHTS + 20_000 * KV)])
def test_what_does_not_fit_is_refused_with_numbers(asked: int | str, free: int) -> None:
    """The weights and one visitor's K/V; a number format of twice the size takes twice the room."""
    with pytest.raises(ModelTooLarge, match=r"3\.71 GB of weights and .* MB for one visitor"):
        context_for("x", LONG, Settings(context=asked), free)
    with pytest.raises(ModelTooLarge, match=r"1\.88 GB for one visitor with 32768 tokens; 4\.74 GB are free"):
        context_for("x", LONG, Settings(context=32_768, kv_dtype="float32"), WEIGHTS + 36_000 * KV)


def test_long_prompts_are_estimated_from_a_measurement(tmp_path: Path) -> None:
    """The measured rates come back; longer prompts and larger models take longer; kept for a number of threads."""
    short = MODELS["chatglm3-6b"].config
    speed = measured(short, 2, 512, 50.0, 10.0, KV)
    assert speed.ttft_s(short, 512) == pytest.approx(512 / 50)
    assert speed.itl_s(short, 512, KV) == pytest.approx(0.1)
    assert speed.ttft_s(LONG, 32_768) > 64 * speed.ttft_s(short, 512)
    assert speed.itl_s(MODELS["glm-4-9b-chat"].config, 512, 40 * 1024) > 0.1 > speed.itl_s(short, 32, KV)
    remember(tmp_path / "kernels", short, speed)
    assert (recall(tmp_path / "kernels", 2), recall(tmp_path / "kernels", 4), recall(None, 2)) == (speed, None, None)
    kept = tmp_path / "kernels" / "speed.json"
    whole = json.loads(kept.read_text())
    others = [{name: value for name, value in whole.items() if name != left_out} for left_out in ("version", "cpu")]
    others += [whole | {"version": whole["version"] - 1}, whole | {"cpu": "another"}]
    for other in ("{", "[]", "[[1]]", '{"version": 3}', *map(json.dumps, others)):
        kept.write_text(other)
        assert recall(tmp_path / "kernels", 2) is None


@pytest.mark.parametrize(
    ("model", "kind", "tokens", "found"),
    [("chatglm3-6b-32k", "float16", 8192, 1.13), ("chatglm3-6b-32k", "float16", 32_767, 1.44),
     ("chatglm3-6b-32k", "int8", 8192, 1.10), ("chatglm3-6b-32k", "int8", 32_767, 1.35),
     ("chatglm-6b", "float16", 2000, 1.30), ("chatglm-6b", "int8", 2000, 1.17)],
)  # fmt: skip
def test_tokens_behind_many_are_estimated_as_they_were_measured(
    model: str, kind: str, tokens: int, found: float
) -> None:
    """The time of a token against one behind 32, in the number format of the K/V: docs/log/2026-11-28.md."""
    config = MODELS[model].config
    kv = kv_bytes(config, Settings(kv_dtype=kind))
    speed = measured(config, 2, 128, 50.0, 10.0, kv)
    assert speed.itl_s(config, tokens, kv) / speed.itl_s(config, 32, kv) == pytest.approx(found, rel=0.08)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a user's folders apart by itself")
def test_compiled_code_is_only_taken_from_a_folder_of_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made for its owner alone; one that others may write is emptied and closed, as an earlier version made it.

    Somebody else's is not used, and the log says what to do.
    """
    settings = Settings(cache=str(tmp_path / "cache"))
    folder = kernel_cache(settings, {})
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert kernel_cache(settings, {}) == folder
    (folder / "left").touch()
    folder.chmod(0o775)
    assert kernel_cache(settings, {}) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(folder.iterdir())
    assert caplog.text == ""
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o777)
    folder.symlink_to(tmp_path / "elsewhere")  # what cannot be emptied is not used either
    assert kernel_cache(settings, {}) is None
    assert "chmod go-w" in caplog.text
    folder.unlink()
    assert kernel_cache(settings, {}) == folder
    caplog.clear()
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert kernel_cache(settings, {}) is None
    assert "chmod go-w" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a user's folders apart by itself")
def test_folders_of_ones_own_are_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is closed; another's folder is as it is, and so is one whose rights cannot be changed."""
    assert closed_to_others(tmp_path / "missing")
    tmp_path.chmod(0o2775)
    assert closed_to_others(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o2755
    tmp_path.chmod(0o775)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "chmod", lambda *_: (_ for _ in ()).throw(PermissionError))
        assert not closed_to_others(tmp_path)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert closed_to_others(tmp_path)
    tmp_path.chmod(0o775)
    assert not closed_to_others(tmp_path.parent, tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o775
