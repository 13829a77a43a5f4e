"""Fetching a model into the hub's cache: resumable, checked, and in the layout that other programs share.

A half file stays as ``blobs/<etag>.incomplete`` and is continued next time. Knows HTTP only
through :class:`HubApi`.

Not huggingface_hub (looked at: 2.4.0): since 1.18 it deletes a half file when a download is cancelled or breaks off,
and begins again at 0. docs/architecture.md has the rest of the comparison.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from chatglm_backend.checkpoint.adapters import ADAPTER_CONFIG
from chatglm_backend.checkpoint.hub import HubAccess
from chatglm_backend.checkpoint.hub_api import CONFIG, HubApi, RemoteFile, RemoteModel, Wanted, wanted_files
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.places import aliases, hub_folder_name
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.progress import Progress, check_cancel, silent
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import DownloadFailed, NotEnoughDisk
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import size

_ATTEMPTS = 5
_MARGIN = 64 << 20


def download(
    model_id: str,
    access: HubAccess,
    *,
    revision: str | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    look: Callable[[Path], None] = silent,
    wanted: Wanted = wanted_files,
    room: Room | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch a model's ``wanted`` files, and return the snapshot's folder; what is there is not fetched again.

    ``look`` is shown the folder once the config lies there, and may refuse the model before its weights come.
    Raises UnusableVariable, HubUnreachable, DownloadFailed, NotEnoughDisk, LoadCancelled, and what ``look`` raises.
    """
    with HubApi(access) as api:
        model = _find(api, model_id, revision, wanted)
        return _Download(api, model, access.cache, progress, cancel, look, sleep).run(revision, room or Room())


def _find(api: HubApi, model_id: str, revision: str | None, wanted: Wanted) -> RemoteModel:
    for name in aliases(model_id):
        model = api.model(name, revision, wanted)
        if model is not None:
            if not any(file.name.endswith((".bin", ".safetensors", ADAPTER_CONFIG)) for file in model.files):
                raise DownloadFailed(model=model_id, reason=Sentence("hub.no_weights"))
            return model
    what = Sentence("hub.revision", revision=revision) if revision else Sentence("hub.model")
    raise DownloadFailed(model=model_id, reason=Sentence("hub.absent", endpoint=api.endpoint, what=what))


@dataclass
class _Download:
    """One model on its way into one cache."""

    _api: HubApi
    _model: RemoteModel
    _cache: Path
    _progress: Progress
    _cancel: CancelToken | None
    _look: Callable[[Path], None]
    _sleep: Callable[[float], None]
    _finished: int = 0

    @property
    def _repo(self) -> Path:
        return self._cache / hub_folder_name(self._model.model_id)

    @property
    def _snapshot(self) -> Path:
        return self._repo / "snapshots" / self._model.commit

    def run(self, revision: str | None, room: Room) -> Path:
        """Fetch what is missing, file by file; small ones first."""
        room.need_disk(self._repo, self._needed())
        try:
            return self._run(revision)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NotEnoughDisk(path=self._repo, free=size(0), needed=size(self._needed())) from error

    def _needed(self) -> int:
        return sum(self._missing_bytes(file) for file in self._model.files) + _MARGIN

    def _run(self, revision: str | None) -> Path:
        (self._repo / "blobs").mkdir(parents=True, exist_ok=True)
        self._snapshot.mkdir(parents=True, exist_ok=True)
        locks = self._cache / ".locks" / self._repo.name
        for file in self._model.files:
            if not self._present(file):
                with writer_lock(locks, name=f"{file.etag}.lock", cancel=self._cancel):
                    self._fetch(file)
                    self._publish(file)
            if file.name in (CONFIG, ADAPTER_CONFIG):
                self._look(self._snapshot)
            self._finished += file.size
            self._report(0)
        if revision != self._model.commit:
            ref = self._repo.joinpath("refs", *(revision or "main").split("/"))
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(self._model.commit, encoding="utf-8")
        return self._snapshot

    def _present(self, file: RemoteFile) -> bool:
        place = self._snapshot / file.name
        return place.is_file() and place.stat().st_size == file.size

    def _missing_bytes(self, file: RemoteFile) -> int:
        if self._present(file) or self._blob(file).is_file():
            return 0
        partial = self._partial(file)
        return max(file.size - (partial.stat().st_size if partial.is_file() else 0), 0)

    def _blob(self, file: RemoteFile) -> Path:
        return self._repo / "blobs" / file.etag

    def _partial(self, file: RemoteFile) -> Path:
        return self._repo / "blobs" / f"{file.etag}.incomplete"

    def _fetch(self, file: RemoteFile) -> None:
        if self._blob(file).is_file() and self._blob(file).stat().st_size == file.size:
            return
        # A server that starts over brings old bytes again: only what no attempt had before counts as progress.
        partial, most, idle = self._partial(file), 0, 0
        partial.touch()
        while (had := partial.stat().st_size) != file.size or file.size == 0:
            check_cancel(self._cancel, self._model.model_id)
            try:
                self._transfer(file, partial, had)
                broken: object = Sentence("hub.early")
            except httpx.TransportError as error:
                broken = str(error) or type(error).__name__
            now = partial.stat().st_size
            if now == file.size:
                break
            idle = 0 if now > most else idle + 1
            most = max(most, now)
            if idle >= _ATTEMPTS:
                raise DownloadFailed(
                    model=self._model.model_id, reason=Sentence("hub.file", file=file.name, problem=broken)
                )
            self._sleep(min(idle, 1))
        self._check(file, partial)
        partial.replace(self._blob(file))

    def _transfer(self, file: RemoteFile, partial: Path, had: int) -> None:
        start = had if had < file.size else 0
        with self._api.fetch(self._model, file, start) as transfer, partial.open("r+b") as out:
            out.seek(transfer.start)
            out.truncate()
            for chunk in transfer.chunks:
                check_cancel(self._cancel, self._model.model_id)
                out.write(chunk)
                if out.tell() > file.size:
                    out.truncate(0)
                    raise DownloadFailed(model=self._model.model_id, reason=Sentence("hub.too_long", file=file.name))
                self._report(out.tell())

    def _check(self, file: RemoteFile, partial: Path) -> None:
        if file.sha256 is None:
            return
        digest = hashlib.sha256()
        with partial.open("rb") as opened:
            while piece := opened.read(4 << 20):
                check_cancel(self._cancel, self._model.model_id)
                digest.update(piece)
        if digest.hexdigest() != file.sha256:
            partial.unlink()
            raise DownloadFailed(model=self._model.model_id, reason=Sentence("hub.damaged", file=file.name))

    def _publish(self, file: RemoteFile) -> None:
        place = self._snapshot / file.name
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        try:
            place.symlink_to(Path(os.path.relpath(self._blob(file), place.parent)))
        except OSError:
            # Windows without developer mode: the file itself goes there, as huggingface_hub does it.
            self._blob(file).replace(place)

    def _report(self, of_current: int) -> None:
        self._progress(
            LoadProgress("download", self._finished + of_current, sum(file.size for file in self._model.files))
        )
