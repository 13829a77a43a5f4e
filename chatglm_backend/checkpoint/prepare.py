"""Getting a model ready, from what the user typed to mapped INT4 tensors: find, fetch, check, convert, map.

The composition of this room, and the one place that decides to rebuild a damaged checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatglm_backend.checkpoint.cache import drop_outdated, is_closed, low_bit_folder
from chatglm_backend.checkpoint.convert import convert, convert_in_memory
from chatglm_backend.checkpoint.encode import Quantize
from chatglm_backend.checkpoint.lowbit import Checkpoint, LowBitCheckpoint, open_low_bit
from chatglm_backend.checkpoint.manifest import LOCAL, MANIFEST, manifest_in, read_noted
from chatglm_backend.checkpoint.places import cache_root, expanded, low_bit_root
from chatglm_backend.checkpoint.progress import Note, Progress, silent
from chatglm_backend.checkpoint.resolve import resolve
from chatglm_backend.checkpoint.source import CheckpointFolder, inspect_folder
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ModelError
from chatglm_backend.models.config import Family, ModelConfig
from chatglm_backend.sentences import Sentence
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preparation:
    """How models are made ready here.

    ``use_cache=False`` converts into memory and writes nothing. ``quantize`` defaults to bigdl's. ``found`` hears
    which folder is read; ``note``, in one sentence each, what the user should see: a family that
    was assumed, a damaged file that is made again.
    """

    quantize: Quantize | None = None
    use_cache: bool = True
    progress: Progress = silent
    cancel: CancelToken | None = None
    note: Note = silent
    found: Callable[[CheckpointFolder], None] = silent
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def open_folder(self, folder: CheckpointFolder) -> Checkpoint:
        """Return the INT4 tensors of a folder that was found already. Raises every CheckpointError."""
        self.progress(LoadProgress("check"))
        if folder.format == "lowbit":
            self._refuse_others(folder.path)
            try:
                return self._open(folder.path)
            except CheckpointError as error:
                return self.rebuild(folder.path, folder.family, error)
        target = low_bit_folder(cache_root(self.env), folder.name, folder.fingerprint)
        closed = not self.use_cache or is_closed(target)
        if not closed:
            self.note(Sentence("note.others_write", path=target))
        if not self.use_cache or not closed:
            self._say_loss(folder)
            return convert_in_memory(folder, quantize=self.quantize, progress=self.progress, cancel=self.cancel)
        if (target / MANIFEST).is_file():
            try:
                return self._open(target)
            except CheckpointError as error:
                return self._make_again(folder, target, error)
        return self._make(folder, target)

    def rebuild(self, target: Path, family: Family | None, error: CheckpointError) -> Checkpoint:
        """Make a damaged low-bit folder again where its source is here; raises ``error`` where it is not."""
        self._refuse_others(target)
        source = _source_of(target, family)
        if source is None:
            raise error
        return self._make_again(source, target, error)

    def _refuse_others(self, folder: Path) -> None:
        """Raises CheckpointError for a conversion of the cache that others may change: no source says what is right."""
        if folder.resolve().parent == low_bit_root(cache_root(self.env)).resolve() and not is_closed(folder):
            raise CheckpointError(path=folder, reason=Sentence("folder.others_write"))

    def _make_again(self, source: CheckpointFolder, target: Path, error: CheckpointError) -> Checkpoint:
        self.note(Sentence("note.made_again", problem=error, source=source.path))
        return self._make(source, target)

    def _make(self, source: CheckpointFolder, target: Path) -> Checkpoint:
        self._say_loss(source)
        convert(source, target, quantize=self.quantize, progress=self.progress, cancel=self.cancel)
        made = self._open(target)
        drop_outdated(cache_root(self.env), source, target)
        return made

    def _say_loss(self, source: CheckpointFolder) -> None:
        if source.thudm_bits == 8:
            self.note(Sentence("note.rounded", name=source.name))

    def _open(self, path: Path) -> LowBitCheckpoint:
        checkpoint = open_low_bit(path, env=self.env)
        self.progress(LoadProgress("map", checkpoint.nbytes, checkpoint.nbytes))
        return checkpoint


def prepare(
    model: str,
    how: Preparation,
    *,
    allow_download: bool = False,
    family: Family | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Return the model's INT4 tensors: mapped from the cache, after converting where need be.

    Raises every ModelError.
    """
    try:
        folder = resolve(
            model,
            allow_download=allow_download,
            family=family,
            revision=revision,
            progress=how.progress,
            cancel=how.cancel,
            env=how.env,
        )
    except CheckpointError as error:
        return how.rebuild(expanded(model), family, error)
    how.found(folder)
    found = Sentence("note.found", name=folder.name, reason=folder.reason)
    _log.info("%s", found)
    if folder.assumed:
        how.note(found)
    if folder.format != "lowbit":
        # Before minutes of converting, and naming the user's file instead of a copy in the cache.
        matching_tokenizer(folder.path, folder.config)
    return how.open_folder(folder)


def matching_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    """Read a checkpoint's tokenizer.

    Raises a CheckpointError where that cannot be read, or has ids that the weights do not know.
    """
    tokenizer = load_tokenizer(folder, config.family)
    ids, known = tokenizer.vocab_size, config.vocab_size
    if ids > known:
        raise CheckpointError(path=folder, reason=Sentence("folder.tokenizer_ids", ids=ids, known=known))
    return tokenizer


def _source_of(path: Path, family: Family | None) -> CheckpointFolder | None:
    """The unchanged source of a low-bit folder, where this machine still has it."""
    place, manifest = read_noted(path / LOCAL).get("source"), manifest_in(path)
    if not (path / MANIFEST).is_file() or not isinstance(place, str):
        return None
    try:
        if manifest is None:
            source = inspect_folder(Path(place), family=family)
        else:
            source = inspect_folder(Path(place), family=manifest.family, name=manifest.name)
    except ModelError:
        return None
    changed = manifest is not None and source.fingerprint != manifest.source_fingerprint
    return None if changed or source.format == "lowbit" else source
