"""What the checkpoint tests share: a plain INT4 quantiser, small folders, and a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm_backend.checkpoint.convert import ConvertOptions

SMALL = ConvertOptions(threads=2, slice_bytes=32 << 10, file_bytes=64 << 10)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def quantize(weight: Tensor) -> Tensor:
    """Blocks of 64 as bigdl lays them out, computed slowly: fp32 [rows, in] -> uint8 [rows, in // 64 * 34]."""
    rows = weight.shape[0]
    blocks = weight.view(rows, -1, 64)
    index = blocks.abs().argmax(dim=-1, keepdim=True)
    scale = blocks.gather(-1, index) / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    nibbles = (blocks * inverse + 8.5).floor().clamp(0, 15).to(torch.uint8)
    packed = nibbles[..., :32] | (nibbles[..., 32:] << 4)
    return torch.cat((scale.half().view(torch.uint8), packed), dim=-1).view(rows, -1)


def largest_weights(folder: Path) -> Path:
    """Return the largest safetensors file of a low-bit folder."""
    return max(folder.rglob("*.safetensors"), key=lambda p: p.stat().st_size)


def flip_byte(path: Path, position: int = -100, *, silently: bool = False) -> None:
    """Change one byte of a file, in place; ``silently`` as a failing disk does, with the same date."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
    if silently:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class FakeHub:
    """A model hub with one repository, which can break off, leave sizes out, or send on to another server's storage."""

    def __init__(self, model_id: str, files: dict[str, bytes]) -> None:
        self.model_id = model_id
        self.files = files
        self.break_after: int | None = None
        self.tell_sizes = True
        self.storage = ""
        self.requests: list[tuple[str, str, str | None]] = []
        self.authorizations: list[str | None] = []
        self.url = ""

    def listing(self) -> dict[str, Any]:
        """Return what the hub's API says about the repository."""
        siblings: list[dict[str, Any]] = []
        for name, data in self.files.items():
            item: dict[str, Any] = {"rfilename": name}
            if self.tell_sizes:
                item |= {"size": len(data), "blobId": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
                if name.endswith((".bin", ".safetensors", ".model")):
                    item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            siblings.append(item)
        return {"id": self.model_id, "sha": COMMIT, "siblings": siblings}

    def fetched(self) -> list[str]:
        """Return the names of the files that were asked for with GET."""
        return [path.rsplit("/", 1)[-1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        """Answer with a file's size and hash."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer with the listing, or a file from an offset."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        self.hub.authorizations.append(self.headers.get("Authorization"))
        if self.path.startswith(f"/api/models/{hub.model_id}/revision/"):
            self._send(200, json.dumps(hub.listing()).encode(), {}, body=body)
            return
        prefix = f"/{hub.model_id}/resolve/{COMMIT}/"
        data = hub.files.get(self.path.removeprefix(prefix)) if self.path.startswith(prefix) else None
        if data is None:
            self._send(404, b"", {}, body=body)
            return
        if hub.storage:
            self._send(302, b"", {"Location": hub.storage + self.path}, body=body)
            return
        etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start and start >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
            return
        if start:
            etag["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], etag, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        limit = self.hub.break_after if "/resolve/" in self.path else None
        if body and limit is not None and len(data) > limit:
            self.wfile.write(data[:limit])
            self.close_connection = True
        elif body:
            self.wfile.write(data)


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the hub on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
