"""How many sessions Gradio keeps, and that handlers always have a value for their outputs."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.gradio_loop import in_loop

if TYPE_CHECKING:
    from chatglm_backend.ui.gradio_insides.sessions import Sessions

gr = pytest.importorskip("gradio")


def sessions(open_kept: int, closed_kept: int, quiet_s: float = 0) -> Sessions:
    """For a small page with a state."""
    from chatglm_backend.ui.gradio_insides.sessions import Sessions

    def build() -> Sessions:
        with gr.Blocks() as page:
            gr.State(())
            gr.Textbox()
        found = Sessions(open_kept=open_kept, closed_kept=closed_kept, quiet=dt.timedelta(seconds=quiet_s))
        found.set_blocks(page)
        return found

    return in_loop(build)


def test_a_session_describes_no_component_and_still_holds_what_is_set() -> None:
    """Not when it begins, not when a value or a property of a component changes."""
    kept = sessions(100, 2)
    state, box = (
        next(key for key, one in kept.blocks.blocks.items() if one.get_block_name() == name)
        for name in ("state", "textbox")
    )
    mine = kept["mine"]
    mine[state] = (1, 2)
    mine[box] = in_loop(lambda: gr.Textbox(label="other", render=False))
    mine._update_config(box)
    mine._update_value_in_config(box, "typed")
    assert list(mine.components) == [] == list(kept["another"].components)
    for session, held, label in ((mine, (1, 2), "other"), (kept["another"], (), None)):
        assert session[state] == held
        assert session[box].label == label


def test_sessions_share_the_components_that_are_alike() -> None:
    """Each holds no more than what differs from the page, and of what others hold too, the same."""
    kept = sessions(100, 2)
    box = next(key for key, one in kept.blocks.blocks.items() if one.get_block_name() == "textbox")
    labels = ("other", "other", "third")
    for name, label in enumerate(labels):
        kept[str(name)][box] = in_loop(lambda label=label: gr.Textbox(label=label, render=False))
    held = [kept[str(name)][box] for name in range(3)]
    assert [one.label for one in held] == list(labels)
    assert held[0] is held[1]
    for name in range(3):
        config = kept[str(name)].blocks_config
        assert list(config.blocks.maps[0]) == [box]
        assert config.fns is kept.blocks.default_config.fns
    assert kept["fresh"][box] is kept.blocks.blocks[box]


def test_of_closed_pages_only_the_last_are_kept() -> None:
    """However many were opened and closed; those that are open stay, and what is still to be said to a closed one."""
    kept = sessions(100, 2)
    queue = kept.blocks._queue
    kept["open"]
    for number in range(20):
        kept[f"closed{number}"].is_closed = True
        queue.pending_messages_per_session[f"closed{number}"] = in_loop(asyncio.Queue)
        queue.pending_event_ids_session[f"closed{number}"] = {f"event{number}"}
        queue.event_ids_to_events |= {"event7": None}
    kept["open"]
    assert list(kept.session_data) == ["closed18", "closed19", "open"]
    assert set(kept.time_last_used) == set(kept.session_data)
    for pending in (queue.pending_messages_per_session, queue.pending_event_ids_session):
        assert list(pending) == ["closed7", "closed18", "closed19"]


def test_a_closed_page_that_comes_back_is_still_known() -> None:
    """With what it held."""
    kept = sessions(100, 2)
    mine = kept["mine"]
    mine.is_closed = True
    for number in range(5):
        kept[f"closed{number}"].is_closed = True
        assert kept["mine"] is mine


def test_pages_that_were_cut_off_but_go_on_are_not_closed() -> None:
    """Gradio leaves its mark on them for ever; that they are in use says that they live."""
    kept = sessions(100, 2, quiet_s=3600)
    alive = {f"alive{number}": kept[f"alive{number}"] for number in range(6)}
    for session in alive.values():
        session.is_closed = True
    kept["another"]
    assert {name: kept[name] for name in alive} == alive


def test_of_open_pages_the_last_used_are_kept() -> None:
    """A page that is never closed is given up when there are too many."""
    kept = sessions(3, 2)
    for number in range(10):
        kept[f"open{number}"]
        kept["busy"]
    assert list(kept.session_data) == ["open8", "open9", "busy"]


def test_a_generator_that_yields_nothing_leaves_its_outputs_as_they_are() -> None:
    """Gradio would empty them; one that yields is untouched, and both still say which request they were for."""
    from chatglm_backend.ui.gradio_insides.handlers import keep_outputs

    async def says(text: str, request: gr.Request) -> AsyncGenerator[str, None]:
        for word in text.split():
            yield f"{request}:{word}"

    async def says_nothing() -> AsyncGenerator[tuple[str, str], None]:
        for _ in ():
            yield "a", "b"

    async def run() -> list[list[Any]]:
        with gr.Blocks() as page:
            box, other = gr.Textbox(), gr.Textbox()
            box.change(says, box, other)
            page.load(says_nothing, None, [box, other])
        keep_outputs(page)
        said, nothing = (event.fn for event in page.fns.values())
        spoken, silent = [v async for v in said("x y", "r")], [v async for v in said("", "r")]
        return [spoken, silent, [v async for v in nothing()]]

    assert asyncio.run(run()) == [["r:x", "r:y"], [gr.skip()], [(gr.skip(), gr.skip())]]


class _Watched:
    """A store that takes down which threads use it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.threads: set[threading.Thread] = set()

    def __getattr__(self, name: str) -> Any:
        self.threads.add(threading.current_thread())
        return getattr(self._store, name)


def test_the_list_of_conversations_is_read_beside_the_loop(tmp_path: Path) -> None:
    """A slow disk must not hold what everybody else is doing."""
    from chatglm_backend.sentences import load_texts
    from chatglm_backend.settings import Settings
    from chatglm_backend.testing import scripted_service
    from chatglm_backend.ui.answers import PageAnswers
    from chatglm_backend.ui.chat import ChatPresenter
    from chatglm_backend.ui.documents import DocumentDesk
    from chatglm_backend.ui.history import History
    from chatglm_backend.ui.pages.chat import build_chat_page

    settings, service = Settings(data=str(tmp_path)), scripted_service()
    history = History(settings)
    presenter = ChatPresenter(service, PageAnswers(service, settings), history, load_texts("en"))
    signer = history.signer()
    cookies = {signer.cookie_name: signer.issue()}

    async def run() -> set[threading.Thread]:
        with gr.Blocks() as page:
            build_chat_page(page, presenter, history, DocumentDesk(service, settings), settings)
        history.store = watched = _Watched(history.store)  # type: ignore[assignment]
        request = SimpleNamespace(cookies=cookies, client=None, session_hash="tab")
        for event in page.fns.values():
            if event.name == "turn":
                values = [(), *[None] * (len(event.inputs) - 1)]
                updates = [one async for one in event.fn(request, gr.EventData(None, {}), *values)]
                assert updates
        return watched.threads

    used = asyncio.run(run())
    assert used
    assert threading.main_thread() not in used
    service.close()
