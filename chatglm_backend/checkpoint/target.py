"""The folder that a conversion writes to: may it be used, is it up to date, what did ended conversions leave there.

Deletes only what a conversion of ours can have made. Loads no tensor.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from pathlib import Path

from chatglm_backend.checkpoint.derived import DERIVED
from chatglm_backend.checkpoint.lock import LOCK
from chatglm_backend.checkpoint.manifest import LOCAL, MANIFEST, manifest_in, verify_files
from chatglm_backend.checkpoint.sums import SUMS
from chatglm_backend.errors import CheckpointError, ConfigError
from chatglm_backend.sentences import Sentence

_DATA = re.compile(r"data-[0-9a-f]{8}")
_TEMPORARY = re.compile(r"(manifest|local|sums)\.json\.\d+\.tmp")
_OWN_NAMES = (LOCK, MANIFEST, LOCAL, SUMS, DERIVED)


def check_target(target: Path) -> None:
    """Raise ConfigError where ``target`` holds something else than a low-bit checkpoint, whole or not."""
    foreign = sorted(path.name for path in target.iterdir() if not _is_ours(path.name)) if target.is_dir() else []
    if foreign and manifest_in(target) is None:
        raise ConfigError(name="out", value=target, reason=Sentence("folder.other_files", name=foreign[0]))


def is_current(target: Path, fingerprint: str) -> bool:
    """Whether ``target`` holds a sound conversion of the source with this fingerprint."""
    manifest = manifest_in(target)
    if manifest is None or manifest.source_fingerprint != fingerprint:
        return False
    try:
        verify_files(target, manifest)
    except (CheckpointError, OSError):
        return False
    return True


def new_data_folder(target: Path) -> Path:
    """Make the folder of a new generation."""
    data = target / f"data-{secrets.token_hex(4)}"
    data.mkdir()
    return data


def clean_leftovers(target: Path) -> None:
    """Remove what ended conversions left behind. Hold the lock; what cannot be removed now is left for later.

    Beside a manifest that cannot be read nothing is removed: it may name any of the data folders.
    """
    current = manifest_in(target)
    unknown = current is None and (target / MANIFEST).exists()
    for path in target.iterdir():
        if _DATA.fullmatch(path.name) and not unknown and (current is None or path.name != current.data):
            shutil.rmtree(path, ignore_errors=True)
        elif _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_ours(name: str) -> bool:
    return name in _OWN_NAMES or bool(_DATA.fullmatch(name) or _TEMPORARY.fullmatch(name))
