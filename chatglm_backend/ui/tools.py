"""The presenters of the Compare, Speed and Model pages, put together for each language.

Knows no components.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatglm_backend.sentences import Texts
from chatglm_backend.service.keeping import Keeper
from chatglm_backend.settings import Settings
from chatglm_backend.ui.answers import PageAnswers
from chatglm_backend.ui.compare import ComparePresenter
from chatglm_backend.ui.models import ModelsPresenter
from chatglm_backend.ui.ports import PageService
from chatglm_backend.ui.speed import SpeedDesk, SpeedPresenter

__all__ = ["PageTools", "PageWorkshop"]


@dataclass(frozen=True, slots=True)
class PageTools:
    """One language's presenters. ``shared`` says that other machines reach the page."""

    compare: ComparePresenter
    speed: SpeedPresenter
    models: ModelsPresenter
    shared: bool


class PageWorkshop:
    """What the pages of all languages have in common: one speed test at a time, one cache."""

    def __init__(self, service: PageService, answers: PageAnswers, settings: Settings, *, shared: bool) -> None:
        self._service = service
        self._answers = answers
        self._desk = SpeedDesk()
        self._keeper = Keeper(settings)
        self._shared = shared

    def tools(self, texts: Texts) -> PageTools:
        """The presenters in one language."""
        return PageTools(
            compare=ComparePresenter(self._service, self._answers, texts),
            speed=SpeedPresenter(self._service, self._desk, texts),
            models=ModelsPresenter(self._service, self._keeper, texts),
            shared=self._shared,
        )
