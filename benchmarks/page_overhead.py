"""What a token costs on its way to a reader: the engine alone, the endpoint's stream, and the page, interleaved.

One process serves the real application on 127.0.0.1 and can also run its engine by itself; a second one reads
the streams, as a browser would. All three make the same number of tokens with the same model. The speed is
taken by the engine's own clock, first to last token: what the page or the endpoint take from it shows there. Each
answer by way of the page or the endpoint is compared with the engine's own before and after it, since machines drift.

    python -m benchmarks.page_overhead --model chatglm2-6b --new-tokens 32 --rounds 12
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.flags import read_flags
from benchmarks.side_by_side.worker import Worker as Reader
from chatglm_backend.access.policy import policy_from
from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.setup import open_existing, open_synthetic
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.core import Completed, GenerationParams, GenerationRequest, ModelInfo
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.engine.sequence import StepResult
from chatglm_backend.models.base import ChatModel
from chatglm_backend.service import Service
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.service.loading import LoadedModel
from chatglm_backend.serving.worker import Worker, WorkerOptions
from chatglm_backend.settings import Settings
from chatglm_backend.ui.listen import take_port
from webui import create_app

if TYPE_CHECKING:
    from chatglm_backend.engine.sequence import Sequence

PATHS = ("engine alone", "endpoint", "page")


class RememberingEngine(Engine):
    """Keeps the last answer's end, whoever asked for it."""

    def __init__(self, network: ChatModel, words: CountedPrompts) -> None:
        """Drafts nothing and reuses nothing."""
        super().__init__(network, words, EngineOptions(draft_tokens=0, prefix_cache_bytes=0))
        self.network, self.words = network, words
        self.last: Completed | None = None

    def step(self) -> list[tuple[Sequence, StepResult]]:
        """As the engine; what ends is remembered."""
        results = super().step()
        for _, result in results:
            if isinstance(result, Completed):
                self.last = result
        return results


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: the engine's own speed, and seconds from asking until all of it was read."""

    decode_tok_s: float
    seconds: float


def make_engine(model: str, threads: int, layers: int = 0) -> RememberingEngine:
    """A model of random weights with so many of its layers (0: all), or the bundled one; it never stops early."""
    network: Any
    if model == "demo":
        settings = Settings(threads=threads)
        network = open_existing(None, settings, progress=lambda _: None, note=print, env=os.environ).model
    else:
        network = open_synthetic(model, threads=threads, cache=kernel_cache(Settings()), layers=layers or None).model
    network.config = replace(network.config, stop_ids=())
    words = CountedPrompts(network.config, lambda token: f"word{token % 97} ")  # one for every token: each one travels
    return RememberingEngine(network, words)


def loaded(engine: RememberingEngine, threads: int, rows: int = 1, settings: Settings | None = None) -> LoadedModel:
    """What the service holds, around this engine; ``rows`` answers are made at a time."""
    config = engine.network.config
    info = ModelInfo(
        "random weights", config.family, 0, config.context_limit, "auto", "", threads, "float16", 0, 0,
    )  # fmt: skip
    worker: Worker[Any] = Worker({"": engine}, WorkerOptions.of(settings or Settings(), rows))
    return LoadedModel(info, engine.words, engine.encode, worker)


@contextmanager
def served(engine: RememberingEngine, threads: int) -> Iterator[str]:
    """The real application around the engine; its address."""
    import uvicorn

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=folder, history=False)
        service = Service(settings, loader=lambda *_, **__: loaded(engine, threads))
        listener = take_port("127.0.0.1", 0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(service, settings, policy_from(settings))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.1)
            service.load()
            service.wait_ready(120)
            yield address
        finally:
            server.should_exit = True
            thread.join(20)
            service.close()


def alone(engine: RememberingEngine, prompt: str, new_tokens: int) -> Run:
    """The engine by itself, in this thread, while nobody asks the worker."""
    request = GenerationRequest(
        "alone", prompt=prompt, prompt_format="raw", params=GenerationParams(max_new_tokens=new_tokens)
    )
    began = time.perf_counter()
    for _ in engine.generate(request):
        pass
    return Run(_speed(engine), time.perf_counter() - began)


def through(reader: Reader, path: str, engine: RememberingEngine, number: int, new_tokens: int, prompt: int) -> Run:
    """The same by way of the endpoint or the page, read in another process."""
    answer = reader.ask(page=int(path == "page"), number=number, prompt_tokens=prompt, new_tokens=new_tokens)
    return Run(_speed(engine), answer["seconds"])


def _speed(engine: RememberingEngine) -> float:
    last, engine.last = engine.last, None
    return (last.timing.decode_tok_s if last else None) or float("nan")


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer and what it took beyond the two of the engine alone around it, as shares of theirs."""

    run: Run
    lost: float
    more: float


def compared(before: Run, run: Run, after: Run) -> Compared:
    """``lost`` is of the time for a token, ``more`` of the time until all was read."""
    token = (1 / before.decode_tok_s + 1 / after.decode_tok_s) / 2
    return Compared(run, 1 - run.decode_tok_s * token, 2 * run.seconds / (before.seconds + after.seconds) - 1)


def table(runs: dict[str, list[Compared]]) -> Iterator[str]:
    """Medians by path, and the middle half of what was lost."""
    yield "| path | answers | decode tok/s | spread | lost | middle half | seconds until all was read | more |"
    yield "|---|---|---|---|---|---|---|---|"
    for path, found in runs.items():
        speeds, lost = [one.run.decode_tok_s for one in found], sorted(one.lost for one in found)
        low, high = lost[len(lost) // 4], lost[-1 - len(lost) // 4]
        yield (
            f"| {path} | {len(found)} | {statistics.median(speeds):.2f} | {min(speeds):.2f}-{max(speeds):.2f} "
            f"| {statistics.median(lost):.1%} | {low:.1%} to {high:.1%} "
            f"| {statistics.median(one.run.seconds for one in found):.2f} "
            f"| {statistics.median(one.more for one in found):.1%} |"
        )


def main() -> None:
    """Measure and print a Markdown table."""
    models = (*sorted(MODELS), "demo")
    options = read_flags(__doc__, models, model="chatglm2-6b", prompt_tokens=32, new_tokens=32, rounds=12, threads=0)
    logging.disable(logging.INFO)
    engine = make_engine(options.model, options.threads)
    with served(engine, options.threads) as address:
        reader = Reader("reader", [sys.executable, "-m", "benchmarks.page_reader", address])
        runs: dict[str, list[Compared]] = {path: [] for path in PATHS}
        prompt = f"{options.prompt_tokens}/0"
        for path in PATHS[1:]:  # warms up
            through(reader, path, engine, 0, options.new_tokens, options.prompt_tokens)
        before = alone(engine, prompt, options.new_tokens)
        for number in range(1, options.rounds + 1):
            for path in PATHS[1:] if number % 2 else reversed(PATHS[1:]):
                run = through(reader, path, engine, number, options.new_tokens, options.prompt_tokens)
                after = alone(engine, prompt, options.new_tokens)
                runs[path].append(compared(before, run, after))
                runs[PATHS[0]].append(compared(before, after, before))
                before = after
        reader.close()
    for line in table(runs):
        print(line)


if __name__ == "__main__":
    main()
