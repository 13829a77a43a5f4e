"""Caches, the default model, free room, locks and rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm_backend.checkpoint.cache import delete_cached, list_cache
from chatglm_backend.checkpoint.convert import convert
from chatglm_backend.checkpoint.default import DEFAULT_MODEL, default_model
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.places import aliases, cache_root, canonical, expanded, hub_cache, is_hub_id, slug
from chatglm_backend.checkpoint.preflight import available_memory, free_disk
from chatglm_backend.checkpoint.prepare import Preparation, prepare
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.core import CancelToken
from chatglm_backend.errors import CacheLocked, LoadCancelled, ModelNotCached, ModelNotFound
from chatglm_backend.installed import start_command
from chatglm_backend.sentences import Sentence
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import quantize


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return an environment with empty caches."""
    return {"HF_HOME": str(tmp_path / "hf"), "CHATGLM_CACHE": str(tmp_path / "cache")}


def snapshot(env: dict[str, str], owner: str, name: str = "chatglm-6b") -> Path:
    """Put a model into the hub's cache as a download would."""
    repo = hub_cache(env) / f"models--{owner}--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    return build_checkpoint(repo / "snapshots" / "abc", "chatglm")


def test_places_follow_the_environment() -> None:
    """CHATGLM_CACHE and the hub's own variables decide, in the hub's order."""
    assert cache_root({"CHATGLM_CACHE": "/x"}) == Path("/x")
    assert cache_root({}).name == "chatglm-cpu" or "chatglm-cpu" in cache_root({}).parts
    assert hub_cache({"HF_HOME": "/h"}) == Path("/h/hub")
    assert hub_cache({"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}) == Path("/c")
    assert hub_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")


def test_a_tilde_that_a_shell_left_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``--out=~/x`` means the home; a home that nobody knows leaves the text as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_names() -> None:
    """Both owners name one model, and names become safe folder names."""
    assert aliases("zai-org/chatglm-6b") == ("zai-org/chatglm-6b", "THUDM/chatglm-6b")
    assert canonical("zai-org/chatglm-6b") == "THUDM/chatglm-6b"
    assert aliases("someone/else") == ("someone/else",)
    assert slug("THUDM/chatglm-6b") == "THUDM--chatglm-6b"
    assert slug("a b:c*张三") == "a-b-c-张三"
    assert slug("..") == "model"
    assert [is_hub_id(t) for t in ("a/b", "a", "a/b/c", "../b", "a/..")] == [True, False, False, False, False]


def test_no_model_at_all(env: dict[str, str], tmp_path: Path) -> None:
    """Without any model the error gives the command that fetches one."""
    with pytest.raises(ModelNotCached, match="download --model THUDM/chatglm-6b"):
        default_model(env, bundled=tmp_path / "none")


@pytest.mark.parametrize("owner", ["THUDM", "zai-org"])
def test_default_is_the_real_model_when_here(env: dict[str, str], owner: str) -> None:
    """A download under either name makes it the default, without a notice."""
    snapshot(env, owner)
    found = default_model(env)
    assert (found.model, found.is_demo, found.notice) == (DEFAULT_MODEL, False, None)


def test_default_is_the_converted_model_when_here(env: dict[str, str]) -> None:
    """A conversion alone is enough, its download may be gone."""
    snapshot(env, "THUDM")
    prepare(DEFAULT_MODEL, Preparation(quantize=quantize, env=env))
    delete_cached(DEFAULT_MODEL, env)
    assert default_model(env).model == DEFAULT_MODEL


def test_default_is_the_bundled_model_otherwise(env: dict[str, str], tmp_path: Path) -> None:
    """The bundled model comes with one line that says how to fetch the real one."""
    bundled = tmp_path / "demo_model"
    convert(inspect_folder(build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")), bundled, quantize=quantize)
    found = default_model(env, bundled=bundled)
    assert (str(bundled), True) == (found.model, found.is_demo)
    assert found.notice == Sentence("note.demo", model=DEFAULT_MODEL, command=start_command(DEFAULT_MODEL))


def test_cache_lists_and_deletes(env: dict[str, str]) -> None:
    """Converted checkpoints and downloads are listed with their sizes and deleted by name."""
    snapshot(env, "THUDM")
    (hub_cache(env) / "models--someone--bert").mkdir()
    prepare(DEFAULT_MODEL, Preparation(quantize=quantize, env=env))
    entries = list_cache(env)
    assert [(e.kind, e.model, e.family) for e in entries] == [
        ("low-bit", DEFAULT_MODEL, "chatglm"),
        ("download", DEFAULT_MODEL, "chatglm"),
    ]
    assert entries[0].nbytes == sum(p.stat().st_size for p in entries[0].path.rglob("*") if p.is_file())
    assert delete_cached(entries[0].name, env) == entries[0]
    assert not entries[0].path.exists()
    with pytest.raises(ModelNotFound):
        delete_cached(entries[0].name, env)


def test_nothing_is_deleted_while_it_is_written(env: dict[str, str]) -> None:
    """A checkpoint under conversion cannot be deleted."""
    snapshot(env, "THUDM")
    prepare(DEFAULT_MODEL, Preparation(quantize=quantize, env=env))
    entry = list_cache(env)[0]
    with writer_lock(entry.path), pytest.raises(CacheLocked):
        delete_cached(entry.name, env)
    assert entry.path.exists()


def test_lock_waits_and_can_be_cancelled(tmp_path: Path) -> None:
    """A second writer waits for a bounded time, or until the user has enough."""
    cancel = CancelToken()
    cancel.cancel()
    with writer_lock(tmp_path):
        with pytest.raises(CacheLocked), writer_lock(tmp_path, wait_s=0.05):
            pass
        with pytest.raises(LoadCancelled), writer_lock(tmp_path, cancel=cancel):
            pass
    with writer_lock(tmp_path, wait_s=0):
        pass


CGROUP_2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/a/memory.max": "1000000",
    "sys/fs/cgroup/a/memory.current": "700000",
    "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 150000\nactive_file 50000\n",
    "sys/fs/cgroup/a/b/memory.max": "max",
}
CGROUP_1 = {
    "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/1\n",
    "proc/self/mountinfo": "41 30 0:31 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "800000",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "300000",
}


@pytest.mark.parametrize("files", [CGROUP_2, CGROUP_1], ids=["version 2", "version 1"])
def test_memory_limit_of_cgroups(tmp_path: Path, files: dict[str, str]) -> None:
    """The tightest limit on the way up counts, less what is used, file pages not counted.

    Inside a container the path of version 1 may not exist.
    """
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == 500000


def test_no_cgroup_means_the_machine(tmp_path: Path) -> None:
    """Without limits the machine's own memory counts."""
    assert available_memory(tmp_path) > 1_000_000


def test_free_disk_of_a_folder_to_be(tmp_path: Path) -> None:
    """A folder that does not exist yet is on the disk of the one above it."""
    assert free_disk(tmp_path / "a" / "b") > 0
