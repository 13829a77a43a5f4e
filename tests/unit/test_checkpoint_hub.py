"""Downloads against a hub on this machine: what is fetched, resuming, aliases, and being offline."""

from __future__ import annotations

import errno
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from chatglm_backend.adapters.find import find_adapter
from chatglm_backend.adapters.folder import inspect_adapter
from chatglm_backend.checkpoint.cache import delete_cached, list_cache
from chatglm_backend.checkpoint.download import download
from chatglm_backend.checkpoint.hub import find_cached, hub_access
from chatglm_backend.checkpoint.hub_api import wanted_files
from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.prepare import Preparation, prepare
from chatglm_backend.checkpoint.resolve import fetch, resolve
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import (
    AdapterError,
    AdapterNotFound,
    AdapterUnsupported,
    CheckpointError,
    DownloadFailed,
    HubUnreachable,
    LoadCancelled,
    ModelNotCached,
    ModelNotFound,
    NotEnoughDisk,
    UnsupportedFamily,
    UnsupportedQuantization,
    UnusableVariable,
)
from chatglm_backend.sentences import Sentence
from tests.golden_folders import GOLDEN
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import COMMIT, FakeHub, quantize, serve

MODEL = "THUDM/chatglm3-6b"
BIG = "model-00002-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """Serve a small ChatGLM3-6B under its old name, with code and other files beside it."""
    folder = build_checkpoint(tmp_path / "remote" / "files", "chatglm3", form="safetensors", _name_or_path="")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {"modeling_chatglm.py": b"raise SystemExit", "README.md": b"#", "pytorch_model.bin": b"PK"}
    with serve(FakeHub(MODEL, files)) as running:
        yield running


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Point everything at that hub and at an empty cache."""
    home = tmp_path / "张三"
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "CHATGLM_CACHE": str(home / "cache")}


def test_fetches_only_what_is_needed(hub: FakeHub, env: dict[str, str]) -> None:
    """Config, tokenizer and the safetensors come, code and the other weights do not; the bytes are right.

    Progress ends at the sum of the sizes and never falls, and what is there is not fetched again.
    """
    reports: list[LoadProgress] = []
    folder = fetch(MODEL, env=env, progress=reports.append)
    expected = sorted(n for n in hub.files if not n.endswith((".py", ".md", ".bin")))
    assert expected == sorted(path.name for path in folder.iterdir())
    assert all((folder / name).read_bytes() == hub.files[name] for name in expected)
    assert sum(path.stat().st_size for path in folder.iterdir()) == reports[-1].done == reports[-1].total
    assert sorted(r.done for r in reports) == [r.done for r in reports]
    before = len(hub.fetched())
    fetch(MODEL, env=env)
    assert before == len(hub.fetched())


def test_half_download_is_continued(hub: FakeHub, env: dict[str, str]) -> None:
    """After a connection that always breaks early, the next run asks only for the rest."""
    hub.break_after = len(hub.files[BIG]) // 2
    cancel = CancelToken()

    def stop_when_the_big_file_broke(_: float) -> None:
        if BIG in hub.fetched():
            cancel.cancel()

    with pytest.raises(LoadCancelled):
        download(MODEL, hub_access(env), cancel=cancel, sleep=stop_when_the_big_file_broke)
    partial = next(Path(env["HF_HOME"]).rglob("*.incomplete"))
    assert partial.stat().st_size > 0
    hub.break_after = None
    hub.requests.clear()
    had = partial.stat().st_size
    folder = fetch(MODEL, env=env)
    assert (folder / BIG).read_bytes() == hub.files[BIG]
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and asked]
    assert ranges == [f"bytes={had}-"]


@pytest.mark.parametrize(("trait", "value"), [("break_after", 50_000), ("tell_sizes", False)])
def test_difficult_hubs(hub: FakeHub, env: dict[str, str], trait: str, value: object) -> None:
    """Connections that break after some bytes each time, and a list without sizes and hashes, still get there."""
    setattr(hub, trait, value)
    folder = download(MODEL, hub_access(env), sleep=lambda _: None)
    assert (folder / BIG).read_bytes() == hub.files[BIG]


def test_connection_that_never_brings_anything(hub: FakeHub, env: dict[str, str]) -> None:
    """A few attempts without a byte end in one sentence that says how to go on."""
    hub.break_after = 0
    with pytest.raises(DownloadFailed, match="Run the same command again"):
        download(MODEL, hub_access(env), sleep=lambda _: None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda good: good[:-10], "ended too early"),
        (lambda good: good + bytes(10), "longer than announced"),
        (lambda good: good[:-1] + bytes([good[-1] ^ 1]), f"{BIG} arrived damaged"),
    ],
)
def test_another_file_than_announced(
    hub: FakeHub, env: dict[str, str], damage: Callable[[bytes], bytes], words: str
) -> None:
    """Of another length or hash: it ends in one sentence, after a few attempts, and is never taken for the file."""
    listing, good = hub.listing(), hub.files[BIG]
    hub.listing = lambda: listing  # type: ignore[method-assign]
    hub.files[BIG] = damage(good)
    with pytest.raises(DownloadFailed, match=words):
        download(MODEL, hub_access(env), sleep=lambda _: None)
    assert len(hub.fetched()) < 20
    assert find_cached(MODEL, cache=hub_access(env).cache) is None
    hub.files[BIG] = good
    assert (fetch(MODEL, env=env) / BIG).read_bytes() == good


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, env: dict[str, str]) -> None:
    """The hub gets the token with every request, the storage that it sends downloads on to never."""
    with serve(FakeHub(MODEL, hub.files)) as storage:
        hub.storage = storage.url
        folder = fetch(MODEL, env=env | {"HF_TOKEN": "secret"})
    assert (folder / BIG).read_bytes() == hub.files[BIG]
    assert set(hub.authorizations) == {"Bearer secret"}
    assert set(storage.authorizations) == {None}


@pytest.mark.parametrize("asked", ["THUDM/chatglm3-6b", "zai-org/chatglm3-6b", "chatglm3-6b"])
def test_both_names_are_one_model(hub: FakeHub, env: dict[str, str], asked: str) -> None:
    """Whichever name is typed, in short too, the hub's other name is tried, and the cache serves all."""
    resolve(asked, allow_download=True, env=env)
    before = len(hub.requests)
    for name in ("THUDM/chatglm3-6b", "zai-org/chatglm3-6b", "chatglm3-6b"):
        folder = resolve(name, allow_download=False, env=env)
        assert (folder.name, folder.family) == ("THUDM/chatglm3-6b", "chatglm3")
    assert before == len(hub.requests)


def test_revisions_are_kept_apart(hub: FakeHub, env: dict[str, str]) -> None:
    """A fetched branch is found by its name and by its commit, and is not taken for main."""
    fetch(MODEL, revision="v1.0", env=env)
    cache = hub_access(env).cache
    assert find_cached(MODEL, revision="v1.0", cache=cache)
    assert find_cached(MODEL, revision=COMMIT, cache=cache)
    assert find_cached(MODEL, revision="other", cache=cache) is None
    assert "/revision/v1.0" in hub.requests[0][1]


def test_half_snapshot_is_not_a_model(env: dict[str, str]) -> None:
    """Killed between two files, a download has no half file; it is incomplete all the same, and not here."""
    folder = fetch(MODEL, env=env)
    assert [entry.complete for entry in list_cache(env)] == [True]
    (folder / BIG).unlink()
    assert [entry.complete for entry in list_cache(env)] == [False]
    with pytest.raises(ModelNotCached):
        resolve(MODEL, allow_download=False, env=env)
    resolve(MODEL, allow_download=True, env=env)
    assert (folder / BIG).is_file()


def test_unknown_model(env: dict[str, str]) -> None:
    """A hub that does not know the model is no network failure."""
    with pytest.raises(DownloadFailed, match="no model of that name"):
        fetch("THUDM/no-such-model", env=env)


def test_nothing_is_fetched_unasked(hub: FakeHub, env: dict[str, str]) -> None:
    """Without permission, and with HF_HUB_OFFLINE, no request is made and the command to fetch is given."""
    with pytest.raises(ModelNotCached, match="download --model THUDM/chatglm3-6b"):
        resolve(MODEL, allow_download=False, env=env)
    with pytest.raises(ModelNotCached):
        resolve(MODEL, allow_download=True, env=env | {"HF_HUB_OFFLINE": "1"})
    assert hub.requests == []


def test_unreachable_hub_is_said_at_once(env: dict[str, str]) -> None:
    """A machine without network gets one sentence within seconds, not after retries."""
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="HF_ENDPOINT"):
        fetch(MODEL, env=env | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "through the proxy in ALL_PROXY"),
        ({"HTTPS_PROXY": "http://x:1", "all_proxy": "http://y:1"}, "through the proxy in HTTPS_PROXY"),
        ({"https_proxy": "http://127.0.0.1:1", "no_proxy": "*"}, "https://hub.test cannot"),
        ({"https_proxy": "http://127.0.0.1:1", "NO_PROXY": "hub.test"}, "https://hub.test cannot"),
        ({"http_proxy": "http://127.0.0.1:1"}, "https://hub.test cannot"),
    ],
)
def test_a_proxy_in_the_way_is_named(variables: dict[str, str], words: str, env: dict[str, str]) -> None:
    """Where a variable sends the download through a proxy, the sentence says which one."""
    access = hub_access({**env, **variables, "HF_ENDPOINT": "https://hub.test"})
    assert words in str(HubUnreachable(model=MODEL, endpoint=access.route))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ALL_PROXY": "gibberish://user:secret@x"}, "ALL_PROXY=gibberish://x cannot"),
        ({"https_proxy": "http://[::1", "all_proxy": "http://127.0.0.1:1"}, "https_proxy=http://[::1 cannot"),
        ({"SSL_CERT_FILE": "/no/such.pem"}, "SSL_CERT_FILE=/no/such.pem cannot"),
        ({"SSL_CERT_DIR": "/no/such"}, "SSL_CERT_DIR=/no/such cannot"),
        ({"HF_ENDPOINT": "hub.test"}, "HF_ENDPOINT=hub.test cannot"),
        ({"HF_TOKEN": "тайна"}, "HF_TOKEN=… cannot"),
    ],
)
def test_a_variable_that_no_download_can_use_is_named(
    variables: dict[str, str], words: str, env: dict[str, str]
) -> None:
    """One sentence with its value, without passwords, before anything is asked."""
    with pytest.raises(UnusableVariable, match=re.escape(words)):
        fetch(MODEL, env={**env, "HF_ENDPOINT": "https://hub.test", **variables})


@pytest.mark.parametrize(
    "variables",
    [
        {"all_proxy": "gibberish://x", "no_proxy": "localhost,[::1],fd00::/8"},
        {"http_proxy": "gibberish://x", "NO_PROXY": " .local, 127.0.0.0/8"},
        {"https_proxy": "gibberish://x", "SSL_CERT_FILE": "/no/such.pem", "REQUESTS_CA_BUNDLE": "/no/such.pem"},
    ],
)
def test_what_a_download_does_not_need_does_not_matter(variables: dict[str, str], env: dict[str, str]) -> None:
    """A hub on this machine, over http: no proxy and no certificates, whatever the variables hold."""
    assert (fetch(MODEL, env={**env, **variables}) / "config.json").is_file()


@pytest.mark.parametrize(
    ("variable", "first"),
    [("{}", b"GET http://hub.test/api/"), ("http://{}", b"GET http://hub.test/api/"), ("socks://{}/", b"\x05")],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # socksio's caller leaves a socket open
def test_proxies_are_spelled_in_several_ways(variable: str, first: bytes, env: dict[str, str]) -> None:
    """Without a scheme, with one, and as desktops write a SOCKS 5 proxy: each is asked."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen() -> None:
            connection = proxy.accept()[0]
            heard.append(connection.recv(1000))
            connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        with pytest.raises(HubUnreachable, match="through the proxy in all_proxy"):
            fetch(MODEL, env={**env, "HF_ENDPOINT": "http://hub.test", "all_proxy": variable.format(address)})
        thread.join(10)
    assert heard[0].startswith(first)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"vision_config": {"hidden_size": 1792}}, UnsupportedFamily),
        ({"rope_scaling": {"factor": 4}}, UnsupportedFamily),
        ({"quantization_bit": 3}, UnsupportedQuantization),
    ],
)
def test_a_model_that_cannot_be_used_costs_no_download(
    hub: FakeHub, env: dict[str, str], change: dict[str, object], error: type[Exception]
) -> None:
    """Its config is looked at first, so that nobody waits for 13 GB to hear that they are of no use."""
    config = json.loads(hub.files["config.json"]) | change
    hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(error):
        resolve(MODEL, allow_download=True, env=env)
    assert hub.fetched() == ["config.json"]


def test_a_model_of_another_name_is_listed_by_its_config(hub: FakeHub, env: dict[str, str]) -> None:
    """Somebody's own training keeps the config, and can be deleted like the originals."""
    hub.model_id = "someone/my-assistant"
    fetch("someone/my-assistant", env=env)
    assert [(entry.name, entry.complete) for entry in list_cache(env)] == [("someone/my-assistant", True)]


def test_disk_is_checked_first(hub: FakeHub, env: dict[str, str]) -> None:
    """Too little disk is said before a file is fetched."""
    with pytest.raises(NotEnoughDisk):
        download(MODEL, hub_access(env), room=Room(disk=lambda _: 1000))
    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_one_sentence_and_what_came_stays(
    hub: FakeHub, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room again only the rest is asked for."""
    real = Path.open

    class Full(io.FileIO):
        def write(self, _: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device") if self.tell() else OSError(errno.EDQUOT, "Quota")

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        large = path.suffix == ".incomplete" and mode == "r+b" and hub.fetched()[-1:] == [BIG]
        return Full(path, "r+") if large else real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    for had in (0, 1000):
        partial = next(iter(Path(env["HF_HOME"]).rglob("*.incomplete")), None)
        if partial is not None:
            partial.write_bytes(hub.files[BIG][:had])
        with pytest.raises(NotEnoughDisk, match=r"has 0 B free, but \d+"):
            fetch(MODEL, env=env)
    monkeypatch.undo()
    hub.requests.clear()
    assert (fetch(MODEL, env=env) / BIG).read_bytes() == hub.files[BIG]
    assert [asked for method, _, asked in hub.requests if method == "GET" and asked] == ["bytes=1000-"]


@pytest.mark.parametrize("text", ["no such folder", "a/b/c", "", "/nowhere/at/all", r"C:\models"])
def test_neither_folder_nor_id(env: dict[str, str], text: str) -> None:
    """Text that is neither is said to be so."""
    with pytest.raises(ModelNotFound):
        resolve(text, allow_download=True, env=env)


def test_safetensors_are_wanted_only_when_there() -> None:
    """A repository with .bin files only gives those."""
    wanted = ("config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json")
    assert wanted_files((*wanted, "x.py", "onnx/model.bin")) == wanted


def test_converted_model_outlives_its_download(env: dict[str, str]) -> None:
    """After conversion the download can be deleted: the model's name then finds the low-bit checkpoint."""
    first = prepare(MODEL, Preparation(quantize=quantize, env=env), allow_download=True)
    kinds = {entry.kind: entry for entry in list_cache(env)}
    assert set(kinds) == {"low-bit", "download"}
    assert all(entry.nbytes > 100_000 and entry.complete for entry in kinds.values())
    delete_cached(kinds["download"].name, env)
    again = prepare("zai-org/chatglm3-6b", Preparation(quantize=quantize, env=env))
    assert isinstance(first, LowBitCheckpoint)
    assert isinstance(again, LowBitCheckpoint)
    assert first.folder == again.folder
    assert [entry.kind for entry in list_cache(env)] == ["low-bit"]


@pytest.mark.parametrize(
    ("folder", "asked"),
    [("lora/lora-qkv", "someone/mine"), ("lora/lora-qkv", "someone/mine@v1"), ("ptuning/checkpoint-3000", "a/b@v1")],
)
def test_a_fine_tune_is_fetched_like_a_model(
    folder: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config and weights, once; as a model it is told what it is, with its base where that is on this machine."""
    source = GOLDEN / f"chatglm3-6b-{folder}"
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    files |= {"optimizer.pt": b"PK", "training_args.bin": b"PK", "README.md": b"#"}
    model = asked.partition("@")[0]
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with serve(FakeHub(model, files)) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "CHATGLM_CACHE": str(tmp_path / "cache")}
        with refused(AdapterError, "adapter.offline", name=asked):
            find_adapter(asked, env=env | {"HF_HUB_OFFLINE": "1"})
        assert hub.requests == []
        found = find_adapter(asked, env=env)
        assert inspect_adapter(found).kind == ("lora" if "lora" in folder else "prefix")
        assert len(list(found.iterdir())) == 2
        before = len(hub.requests)
        assert find_adapter(asked, env=env) == find_adapter(str(found)) == found
        assert before == len(hub.requests)
        (entry,) = list_cache(env)
        assert (entry.name, entry.kind, entry.complete) == (model, "adapter", True)
        revision = asked.partition("@")[2] or None
        for here in (False, True):
            with pytest.raises(CheckpointError) as caught:
                inspect_folder(fetch(model, revision=revision, env=env))
            reason = caught.value.fields["reason"]
            assert isinstance(reason, Sentence)
            assert reason.code == ("folder.adapter" if here else "folder.adapter_away")
            assert (reason.fields["base"], reason.fields["adapter"]) == ("THUDM/chatglm3-6b", model)
            (tmp_path / "hub" / "models--THUDM--chatglm3-6b" / "snapshots" / "x").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("config", "error"), [({"peft_type": "IA3"}, AdapterUnsupported), ({"pre_seq_len": None}, AdapterNotFound)]
)
def test_what_is_no_fine_tune_is_refused_before_its_weights_come(
    config: dict[str, str], error: type[AdapterError], tmp_path: Path
) -> None:
    """Its config is read first."""
    name = "adapter_config.json" if "peft_type" in config else "config.json"
    files = {name: json.dumps(config).encode(), "adapter_model.bin": b"PK", "model.safetensors": bytes(100)}
    with serve(FakeHub("a/b", files)) as hub:
        with pytest.raises(error):
            find_adapter("a/b", env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)})
        assert hub.fetched() == [name]
