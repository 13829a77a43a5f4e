"""What is kept on this machine, what models need, and the doctor's report, for the page.

Knows the cache and the settings, no page. Importing it loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from chatglm_backend.checkpoint.cache import CacheEntry, delete_cached, list_cache
from chatglm_backend.checkpoint.places import canonical
from chatglm_backend.errors import ModelInUse
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.service.needs import Needs, Offer, Reckoning
from chatglm_backend.service.report import Findings, look_at_everything
from chatglm_backend.service.speed import Speed, recall
from chatglm_backend.settings import Settings, with_cache


class Keeper:
    """The machine's models, for the page."""

    def __init__(self, settings: Settings, env: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._env = with_cache(settings, env)

    def entries(self) -> tuple[CacheEntry, ...]:
        """Everything kept."""
        return list_cache(self._env)

    def delete(self, name: str, in_use: str | None) -> CacheEntry:
        """Delete one entry. Raises ModelInUse for the model that is loaded, ModelNotFound, CacheLocked."""
        for entry in self.entries():
            if entry.name == name and in_use is not None and canonical(entry.model) == canonical(in_use):
                raise ModelInUse(model=entry.model)
        return delete_cached(name, self._env)

    def report(self) -> Findings:
        """The doctor's report; takes seconds."""
        return look_at_everything(self._settings)

    def speed(self, threads: int) -> Speed | None:
        """What was measured here with so many threads."""
        return recall(kernel_cache(self._settings, self._env), threads)

    def needs(self, model: str) -> Needs | None:
        """See :meth:`Reckoning.needs`."""
        return Reckoning(self._settings, self._env, self.entries()).needs(model)

    def offers(self) -> tuple[Offer, ...]:
        """The models that people can get. Raises OSError where the cache cannot be read."""
        return Reckoning(self._settings, self._env, self.entries()).offers()
