"""The page: layout from top to bottom, the application that serves it, and the command that starts it.

Every callback is a presenter's method and every string a key of the catalogue; see ``chatglm_backend/ui``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from chatglm_backend.access.announce import announcement, share_links
from chatglm_backend.access.policy import AccessPolicy, policy_from
from chatglm_backend.errors import ChatGLMError, ClusterError, ConfigError
from chatglm_backend.hardware.allocator import keep_small, share_heaps
from chatglm_backend.imports import many_imports
from chatglm_backend.logs import Say, catch_prints, start_logging
from chatglm_backend.network import quiet_environment
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings
from chatglm_backend.ui.gradio_insides.environment import gradio_environment
from chatglm_backend.ui.listen import take_port
from chatglm_backend.ui.options import page_settings
from chatglm_backend.units import whole_seconds

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

    from chatglm_backend.service import Service
    from chatglm_backend.ui.batch import BatchPresenter
    from chatglm_backend.ui.chat import ChatPresenter
    from chatglm_backend.ui.documents import DocumentDesk
    from chatglm_backend.ui.history import History
    from chatglm_backend.ui.models import ModelsPresenter
    from chatglm_backend.ui.pages.share import ShareLinks
    from chatglm_backend.ui.presenter import Presenter
    from chatglm_backend.ui.speed import SpeedPresenter


def build_page(
    presenter: Presenter, chat: ChatPresenter, speed: SpeedPresenter, models: ModelsPresenter, history: History,
    batch: BatchPresenter, documents: DocumentDesk, settings: Settings, links: ShareLinks | None = None,
) -> gr.Blocks:  # fmt: skip
    """The page in the presenter's language; ``links`` are shown to whoever sits at this computer."""
    import gradio as gr

    from chatglm_backend.ui.gradio_insides.handlers import keep_outputs
    from chatglm_backend.ui.pages.batch import build_batch_page
    from chatglm_backend.ui.pages.chat import build_chat_page
    from chatglm_backend.ui.pages.compare import build_compare_page
    from chatglm_backend.ui.pages.header import build_header, follow_model, leave_when_closed
    from chatglm_backend.ui.pages.model import build_model_page
    from chatglm_backend.ui.pages.prompt import build_prompt_page
    from chatglm_backend.ui.pages.share import build_share
    from chatglm_backend.ui.pages.speed import build_speed_page

    t = presenter.texts
    with gr.Blocks(title=t("app.title"), analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        card = build_header(presenter)
        if links is not None:
            build_share(page, t, links)
        with gr.Tabs(elem_id="cg-tabs"):
            with gr.Tab(t("tab.chat"), id="chat", elem_id="cg-tab-chat"):
                code_note = gr.HTML("", elem_id="cg-chat-code")
                system, tools, chat_choice = build_chat_page(page, chat, history, documents, settings)
            with gr.Tab(t("tab.prompt"), id="prompt", elem_id="cg-tab-prompt"):
                examples, prompt_format, language, prompt_choice = build_prompt_page(page, presenter, history, settings)
            with gr.Tab(t("tab.compare"), id="compare", elem_id="cg-tab-compare"):
                choices = [prompt_choice, *build_compare_page(page, presenter, history, settings)]
            with gr.Tab(t("tab.speed"), id="speed", elem_id="cg-tab-speed"):
                build_speed_page(speed)
            with gr.Tab(t("tab.model"), id="model", elem_id="cg-tab-model"):
                model = build_model_page(page, presenter, models)
            with gr.Tab(t("tab.batch"), id="batch", elem_id="cg-tab-batch"):
                build_batch_page(page, batch, history)
        gr.HTML(f'<p class="cg-foot">{t("footer.note")}</p>')
        follow_model(
            page, presenter, models, card, examples, prompt_format, language, code_note, system, tools, model,
            choices, chat_choice, restored=history.enabled,
        )  # fmt: skip
        # Answers go on for a while, and documents stay for a reload; a speed test ends.
        leave_when_closed(page, presenter.answers.leave, documents.leave, speed.stop)
    keep_outputs(page)
    return page


def create_app(
    service: Service, settings: Settings, policy: AccessPolicy | None = None, links: ShareLinks | None = None
) -> FastAPI:
    """The guarded page in every language. Loading the model begins once the page can be opened.

    ``links``: how others get in, for whoever sits at this computer; found out where the policy shares the page.
    """
    from fastapi import FastAPI

    from chatglm_backend.access.guard import Guard
    from chatglm_backend.access.request_log import RequestLog
    from chatglm_backend.api import openai_router, operations_router
    from chatglm_backend.sentences import LANGUAGES, load_texts
    from chatglm_backend.service.keeping import Keeper
    from chatglm_backend.store.transfer import MAX_IMPORT_BYTES
    from chatglm_backend.ui.answers import PageAnswers
    from chatglm_backend.ui.batch import BatchDesk, BatchPresenter
    from chatglm_backend.ui.batch_routes import batch_router
    from chatglm_backend.ui.chat import ChatPresenter
    from chatglm_backend.ui.counting_routes import count_router
    from chatglm_backend.ui.document_routes import document_router
    from chatglm_backend.ui.documents import DocumentDesk
    from chatglm_backend.ui.gradio_insides.mounting import mount_pages, no_spare_apps
    from chatglm_backend.ui.gradio_insides.session_owner import SessionOwner
    from chatglm_backend.ui.history import History
    from chatglm_backend.ui.history_routes import history_router
    from chatglm_backend.ui.models import ModelsPresenter
    from chatglm_backend.ui.presenter import Presenter
    from chatglm_backend.ui.speed import SpeedDesk, SpeedPresenter
    from chatglm_backend.ui.visitor import VisitorLayer

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_later(0.05, service.load, settings.model)
        tidying = [asyncio.create_task(one) for one in (batches.keep_tidy(), documents.keep_tidy(), keep_small())]
        yield
        for task in tidying:
            task.cancel()

    app = FastAPI(title="ChatGLM", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", lifespan=lifespan)
    policy = policy or policy_from(settings)
    answers, desk, keeper, pages = PageAnswers(service, settings), SpeedDesk(), Keeper(settings), {}
    batches, documents = BatchDesk(service, settings), DocumentDesk(service, settings)
    if links is None and policy.listening:
        links = partial(share_links, policy)
    history, catalogues = History(settings, service.forget), {language: load_texts(language) for language in LANGUAGES}
    for language, texts in catalogues.items():
        presenter, chat = Presenter(service, answers, texts), ChatPresenter(service, answers, history, texts)
        speed, models = SpeedPresenter(service, desk, texts), ModelsPresenter(service, keeper, texts, policy.shared)
        with no_spare_apps():
            pages[language] = build_page(
                presenter, chat, speed, models, history, BatchPresenter(batches, texts), documents, settings, links
            )
    app.include_router(openai_router(service, settings, policy.max_body))
    app.include_router(operations_router(service))
    app.include_router(history_router(history, catalogues))
    app.include_router(count_router(service, history, catalogues))
    app.include_router(batch_router(batches, history, catalogues))
    app.include_router(document_router(documents, history, catalogues))
    app.add_middleware(SessionOwner, visitor=history.name_of)
    app.add_middleware(VisitorLayer, signer=history.signer)
    # Files come as base64, which makes four bytes of three.
    chat_bytes = policy.max_body + (settings.document_mb << 20) * 4 // 3
    body_limits = {
        **dict.fromkeys(("/history/import", "/batch/input"), MAX_IMPORT_BYTES),
        "/chat/completions": chat_bytes,
        "/chat/document": documents.max_bytes,
    }
    app.add_middleware(Guard, policy=policy, body_limits=body_limits)
    app.add_middleware(RequestLog)
    mount_pages(app, pages)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Start the page; returns the exit code: 2 for a setting that cannot be, 1 for what this machine lacks."""
    ended = _end_while_starting()
    share_heaps()
    quiet_environment(os.environ)
    try:
        settings = page_settings(argv)
        if settings.cluster_address and not settings.cluster:
            reason = Sentence("cluster.address_alone")
            raise ConfigError(name="--address", value=settings.cluster_address, reason=reason)
        policy = policy_from(settings)
        listener = take_port(policy.bind_host, policy.port)
    except ChatGLMError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    from chatglm_backend.service import Service

    if ended.is_set():
        return 0
    say = start_logging(settings)
    if not settings.cluster:
        run_page(Service(settings, note=say), settings, policy, listener, say)
        return 0
    from chatglm_backend.cluster.start import clustered

    try:
        with clustered(settings, say) as service:
            run_page(service, settings, policy, listener, say)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_while_starting() -> threading.Event:
    """Before there is a server to drain, SIGTERM and Ctrl-C just end the program.

    The event is set too, as an exception in a callback of Python's own, of which imports have many, is lost.
    """
    ended = threading.Event()

    def end(number: int, _: object) -> None:
        ended.set()
        raise SystemExit(0 if number == signal.SIGTERM else 130)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
    return ended


def run_page(service: Service, settings: Settings, policy: AccessPolicy, listener: socket.socket, say: Say) -> None:
    """Serve the page until a signal; then give running answers ``drain_seconds``, end the connections, and return."""
    import uvicorn

    from chatglm_backend.access.server import OrderlyServer, allow_open_files, server_options

    allow_open_files()
    try:
        with catch_prints(settings), contextlib.ExitStack() as until_the_end:
            with many_imports():
                until_the_end.enter_context(gradio_environment(os.environ))
                app = create_app(service, settings, policy)
                gc.freeze()
            for line in announcement(policy, picture=sys.stderr.isatty()):
                say(line)
            config = uvicorn.Config(app, log_config=None, **server_options(policy, settings))
            OrderlyServer(config, drain=lambda: _drain(service, settings, say)).run(sockets=[listener])
    finally:
        service.close()


def _drain(service: Service, settings: Settings, say: Say) -> None:
    seconds = settings.drain_seconds
    hint = f"Ending: running answers get up to {whole_seconds(seconds)}. Press Ctrl-C again to end at once."
    told = threading.Timer(1.0, say, [hint])
    told.daemon = True
    told.start()
    service.close(seconds)
    told.cancel()


if __name__ == "__main__":
    code = main()
    gc.freeze()  # looking through all that ends with the process would take longer than the rest of its end
    raise SystemExit(code)
