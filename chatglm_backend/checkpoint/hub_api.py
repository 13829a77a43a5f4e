"""The hub's answers that a download needs: which files a model has, and one file's bytes from an offset.

Plain HTTP through httpx (Xet is never used, so mirrors work), the way that :mod:`hub_client` chooses.
Knows nothing of caches and folders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from chatglm_backend.checkpoint.adapters import ADAPTER_CONFIG
from chatglm_backend.checkpoint.hub import HubAccess
from chatglm_backend.checkpoint.hub_client import Ways, check_way
from chatglm_backend.checkpoint.source import TOKENIZER_FILES
from chatglm_backend.errors import DownloadFailed, HubUnreachable
from chatglm_backend.sentences import Sentence

_CONNECT_S, _READ_S = 5.0, 20.0
CONFIG = "config.json"
Wanted = Callable[[tuple[str, ...]], tuple[str, ...]]
"""Chooses from the names of a model's files those to fetch, a config first."""
_SMALL = (CONFIG, *TOKENIZER_FILES)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file: size in bytes, the hub's id for its content, and its SHA-256 where the hub tells it."""

    name: str
    size: int
    etag: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """The files of a model at one commit."""

    model_id: str
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way, beginning at ``start``."""

    start: int
    chunks: Iterator[bytes]


class HubApi:
    """A connection to one hub or mirror. Use as a context manager. Raises UnusableVariable at once."""

    def __init__(self, access: HubAccess) -> None:
        check_way(access)
        headers = {"user-agent": "chatglm-cpu", "accept-encoding": "identity"}
        if access.token:
            headers["authorization"] = f"Bearer {access.token}"
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        self.endpoint = access.endpoint
        self._route = access.route
        self._client = httpx.Client(
            headers=headers, timeout=timeout, follow_redirects=True, trust_env=False, transport=Ways(access.env)
        )

    def __enter__(self) -> HubApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def model(self, model_id: str, revision: str | None, wanted: Wanted) -> RemoteModel | None:
        """List a model's ``wanted`` files; ``None`` where the hub knows no such model or revision.

        Raises HubUnreachable at once where nothing answers, DownloadFailed for another answer.
        """
        url = f"{self.endpoint}/api/models/{model_id}/revision/{quote(revision or 'main', safe='')}"
        try:
            answer = self._client.get(url, params={"blobs": "true"})
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise HubUnreachable(model=model_id, endpoint=self._route) from error
        if answer.status_code in (401, 403, 404):
            return None
        if answer.status_code != httpx.codes.OK:
            raise DownloadFailed(
                model=model_id, reason=Sentence("hub.answered", endpoint=self.endpoint, status=answer.status_code)
            )
        try:
            return self._parse(model_id, answer.json(), wanted)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DownloadFailed(model=model_id, reason=Sentence("hub.not_a_hub", endpoint=self.endpoint)) from error

    @contextlib.contextmanager
    def fetch(self, model: RemoteModel, file: RemoteFile, start: int) -> Iterator[Transfer]:
        """Open a file from an offset; a server that cannot do that begins at 0.

        Raises httpx.TransportError, also while chunks are read, and DownloadFailed for an error status.
        """
        headers = {"range": f"bytes={start}-"} if start else {}
        with self._client.stream("GET", self._url(model, file.name), headers=headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                yield Transfer(0, iter(()))
                return
            if answer.status_code >= 400:
                raise DownloadFailed(
                    model=model.model_id,
                    reason=Sentence("hub.file_answered", file=file.name, status=answer.status_code),
                )
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            yield Transfer(start if resumed else 0, answer.iter_bytes())

    def _url(self, model: RemoteModel, name: str) -> str:
        return f"{self.endpoint}/{model.model_id}/resolve/{model.commit}/{quote(name)}"

    def _parse(self, model_id: str, raw: Mapping[str, object], wanted: Wanted) -> RemoteModel:
        commit, siblings = str(raw["sha"]), raw["siblings"]
        if not isinstance(siblings, list):
            raise TypeError
        listed: dict[str, Mapping[str, object]] = {str(item["rfilename"]): item for item in siblings}
        model = RemoteModel(model_id, commit, ())
        files = tuple(self._file(model, name, listed[name]) for name in wanted(tuple(listed)))
        return RemoteModel(model_id, commit, files)

    def _file(self, model: RemoteModel, name: str, item: Mapping[str, object]) -> RemoteFile:
        lfs = item.get("lfs")
        if isinstance(lfs, dict) and lfs.get("sha256"):
            sha256 = str(lfs["sha256"])
            return RemoteFile(name, int(str(lfs.get("size", item.get("size")))), sha256, sha256)
        if item.get("size") is not None and item.get("blobId"):
            return RemoteFile(name, int(str(item["size"])), str(item["blobId"]), None)
        return self._head(model, name)

    def _head(self, model: RemoteModel, name: str) -> RemoteFile:
        """Ask for one file, where a mirror's list says too little."""
        try:
            answer = self._client.head(self._url(model, name), follow_redirects=False)
            while answer.is_redirect and "x-linked-size" not in answer.headers:
                answer = self._client.send(answer.next_request or answer.request)
        except httpx.TransportError as error:
            raise DownloadFailed(model=model.model_id, reason=Sentence("hub.broke", endpoint=self.endpoint)) from error
        headers = answer.headers
        etag = headers.get("x-linked-etag") or headers.get("etag") or f"{model.commit}-{name}"
        etag = "".join(c for c in etag.removeprefix("W/") if c.isalnum() or c in "-_.")
        size = int(headers.get("x-linked-size") or headers["content-length"])
        return RemoteFile(name, size, etag, etag if len(etag) == 64 else None)


def wanted_files(names: tuple[str, ...]) -> tuple[str, ...]:
    """The config first, then tokenizer and one set of weights (safetensors where both are); code is never wanted.

    Where there is an adapter instead of weights, its config, which tells of it.
    """
    top = [name for name in names if "/" not in name and "\\" not in name]
    safe = [n for n in top if n.startswith("model") and n.endswith((".safetensors", ".safetensors.index.json"))]
    pickled = [n for n in top if n.startswith("pytorch_model") and n.endswith((".bin", ".bin.index.json"))]
    has_safe = any(n.endswith(".safetensors") for n in safe)
    if not safe and not pickled and ADAPTER_CONFIG in top:
        return (ADAPTER_CONFIG,)
    return tuple(n for n in _SMALL if n in top) + tuple(sorted(safe if has_safe else pickled))
