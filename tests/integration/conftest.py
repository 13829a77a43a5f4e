"""What several files share: a page in a process of its own, which takes seconds to start, and small checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from webui_process import Running, running_page

if TYPE_CHECKING:
    from tests import tiny


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real server on a scripted model; it logs every request, and one visitor may ask much at once."""
    folder = tmp_path_factory.mktemp("page")
    with running_page(folder, "--visitor-limit", "64", "--log-level", "info", CHATGLM_DATA=str(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    """One small checkpoint of each family."""
    from tests import tiny

    root = tmp_path_factory.mktemp("models")
    return {
        family: tiny.build_checkpoint(root / tiny.NAMES[family], family, form="bin" if i else "safetensors")
        for i, family in enumerate(tiny.FAMILIES)
    }
