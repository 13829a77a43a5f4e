"""One page in a process of its own, for every file that visits one: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from webui_process import Running, running_page


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real server on a scripted model; it logs every request, and one visitor may ask much at once."""
    folder = tmp_path_factory.mktemp("page")
    with running_page(folder, "--visitor-limit", "64", "--log-level", "info", CHATGLM_DATA=str(folder)) as running:
        yield running
