"""The data folder: where it is, and the random key in it that signs visitors' cookies."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from chatglm_backend.errors import HistoryUnavailable
from chatglm_backend.leftovers import remove_leftovers
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings

_KEY_BYTES = 32


def data_folder(settings: Settings) -> Path:
    """Where conversations lie: as set, or the system's folder for a user's data. Creates nothing."""
    if settings.data:
        return Path(settings.data).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("chatglm-cpu", appauthor=False))


def shown_path(path: str | Path) -> str:
    """A path for other people's eyes: without the name of the one whose home it is in."""
    try:
        return str(Path("~") / Path(path).relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)


def private_folder(folder: Path) -> Path:
    """Make the folder, for its owner only. Raises :class:`HistoryUnavailable`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HistoryUnavailable(path=folder, reason=error.strerror or type(error).__name__) from error
    return folder


def visitor_key(folder: Path) -> bytes:
    """The key in the folder, made on first use. Raises :class:`HistoryUnavailable`."""
    path = private_folder(folder) / "visitor.key"
    try:
        key = _read(path)
        if key is None:
            _publish(path, secrets.token_bytes(_KEY_BYTES))
            key = _read(path)
    except OSError as error:
        raise HistoryUnavailable(path=path, reason=error.strerror or type(error).__name__) from error
    if key is None:
        raise HistoryUnavailable(path=path, reason=Sentence("file.key_cut"))
    return key


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _publish(path: Path, key: bytes) -> None:
    """Put a whole key in place; where another process was faster, its key stays."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    remove_leftovers(path.parent, f"{path.name}.*")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            if _read(path) is None:
                part.replace(path)
            return
        try:
            os.link(part, path)
        except FileExistsError:
            return
        except OSError:
            part.replace(path)  # a file system without links
    finally:
        part.unlink(missing_ok=True)
