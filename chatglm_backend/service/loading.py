"""From a model's name to a running worker: settings, checkpoint, kernel, model and engine put together.

The heavy packages are imported inside the functions, so that only the loading thread waits for
them. Knows nothing of status, pages or HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from chatglm_backend.checkpoint.known import known_model
from chatglm_backend.checkpoint.places import expanded
from chatglm_backend.checkpoint.preflight import available_memory
from chatglm_backend.core import CancelToken, GenerationParams, GenerationRequest, LoadProgress, ModelInfo
from chatglm_backend.errors import DamagedLowBit, LoadCancelled
from chatglm_backend.imports import many_imports
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.adapters import Adapters, BaseParts, named_source
from chatglm_backend.service.kernels import ComparisonEngine, kernel_cache, other_kernels
from chatglm_backend.service.layouts import map_weights
from chatglm_backend.service.needs import USUAL_TOKENS, context_for
from chatglm_backend.settings import AUTO, Settings

if TYPE_CHECKING:
    from chatglm_backend.checkpoint.lowbit import Checkpoint
    from chatglm_backend.checkpoint.source import CheckpointFolder
    from chatglm_backend.engine.engine import Engine
    from chatglm_backend.engine.kept_prefixes import KeptPrefixes
    from chatglm_backend.engine.options import PreparedRequest
    from chatglm_backend.models.base import ChatModel
    from chatglm_backend.serving.ports import EnginePort
    from chatglm_backend.serving.worker import Worker
    from chatglm_backend.store.kv_blocks import KVBlocks
    from chatglm_backend.tokenizers.base import EncodedPrompt, Tokenizer

_log = logging.getLogger(__name__)
_WRITING_S = 5.0

Note = Callable[[Sentence], None]
"""Takes one sentence for the user."""
Progress = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to answer, and the parts that the service asks."""

    info: ModelInfo
    tokenizer: Tokenizer
    encode: Callable[[GenerationRequest], EncodedPrompt]
    worker: Worker[PreparedRequest]
    adapters: Adapters | None = None
    kept: KeptPrefixes | None = None

    def close(self, drain_s: float = 0.0) -> None:
        """End its worker, and write what is still to be kept."""
        self.worker.close(drain_s)
        if self.kept is not None:
            self.kept.wait(_WRITING_S)


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is to be made ready, and who is told of it."""

    settings: Settings
    progress: Progress
    cancel: CancelToken
    note: Note
    env: Mapping[str, str]
    blocks: KVBlocks | None = None


Loader = Callable[[str | None, Loading], LoadedModel]
"""Makes a model, ``None`` the default one, ready. Raises a :class:`ChatGLMError`, LoadCancelled among them."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model that can compute, before anything serves it."""

    info: ModelInfo
    checkpoint: Checkpoint
    network: ChatModel
    base: BaseParts
    others: Mapping[str, Callable[[], ChatModel]]


def open_model(model: str | None, how: Loading) -> OpenedModel:
    """Find, convert if need be, and map ``model``. Only a model that was named is ever downloaded."""
    settings, env = how.settings, how.env
    how.progress(LoadProgress("find"))
    with many_imports():
        import torch

    from chatglm_backend.adapters.load import own_prefix
    from chatglm_backend.checkpoint.default import bundled_folder, bundled_rounds, default_model
    from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
    from chatglm_backend.checkpoint.prepare import Preparation, prepare
    from chatglm_backend.hardware import Wishes, plan_threads, read_machine
    from chatglm_backend.int4.kernel import KernelName
    from chatglm_backend.int4.select import select_kernel
    from chatglm_backend.models.base import build_model
    from chatglm_backend.models.layout import parameter_count
    from chatglm_backend.tokenizers.code import completes_code, is_base
    from chatglm_backend.tokenizers.tools import calls_tools

    named = model is not None
    if model is None:
        default = default_model(env)
        model = default.model
        if default.notice:
            how.note(default.notice)
    plan = plan_threads(read_machine(), Wishes(threads=settings.fixed("threads")), env)
    found: list[CheckpointFolder] = []
    free = available_memory()

    def take(folder: CheckpointFolder) -> None:
        found.append(folder)
        context_for(folder.name, folder.config, settings, free)  # what is too large is refused before it is converted

    row = None if expanded(model).is_dir() else known_model(model)
    if row is not None:
        context_for(row.name, row.config, settings, free)  # or fetched
    torch.set_num_threads(plan.threads)
    preparation = Preparation(
        use_cache=not settings.no_cache,
        progress=how.progress,
        cancel=how.cancel,
        note=how.note,
        found=take,
        env=env,
    )
    checkpoint = prepare(
        model,
        preparation,
        allow_download=named,
        family=settings.fixed("family"),
        revision=settings.revision,
    )
    how.progress(LoadProgress("map"))
    if isinstance(checkpoint, LowBitCheckpoint) and not settings.no_cache and settings.kernel in ("auto", "vnni"):
        checkpoint.layouts.read_ahead()  # while the kernel is being set up
    with many_imports():  # numba's, half of them when its function is loaded
        choice = select_kernel(
            cast("KernelName", settings.kernel),
            threads=plan.threads,
            cache=kernel_cache(settings, env),
            notify=_log.info,
        )
    map_for = partial(
        map_weights, kernel=choice.kernel, progress=how.progress, cancel=how.cancel, keep=not settings.no_cache
    )
    try:
        weights = map_for(checkpoint)
    except DamagedLowBit as error:
        if not isinstance(checkpoint, LowBitCheckpoint):
            raise
        checkpoint = preparation.rebuild(checkpoint.folder, checkpoint.config.family, error)
        weights = map_for(checkpoint)
    most, tokens = checkpoint.config.context_limit, context_for(checkpoint.name, checkpoint.config, settings, free)
    if settings.context == AUTO and tokens < min(most, USUAL_TOKENS):
        how.note(Sentence("note.context_less", tokens=tokens, most=most))
    config = replace(checkpoint.config, context_limit=tokens)
    network = build_model(config, weights, kv_dtype=getattr(torch, settings.kv_dtype), ops=choice.ops)
    others = other_kernels(checkpoint, choice.kernel, network, getattr(torch, settings.kv_dtype))
    rows = checkpoint.prefix
    info = ModelInfo(
        name=checkpoint.name,
        family=checkpoint.config.family,
        parameters=parameter_count(checkpoint.config),
        context_limit=config.context_limit,
        model_context=most,
        kernel=choice.kernel.name,
        kernel_reason=choice.reason,
        threads=plan.threads,
        kv_dtype=settings.kv_dtype,
        kv_bytes_per_token=network.new_cache(1).bytes_per_token,
        weight_bytes=checkpoint.nbytes,
        is_demo=model == str(bundled_folder()),
        family_reason=found[0].why if found else None,
        other_kernels=tuple(others),
        prefix_rows=0 if rows is None else rows.shape[2],
        tools=calls_tools(checkpoint.config.family, checkpoint.name, most, checkpoint.tokenizer_folder),
        completes_code=completes_code(checkpoint.name),
        is_base=is_base(checkpoint.name),
        chat_rounds=bundled_rounds() if model == str(bundled_folder()) else 0,
        identity=checkpoint.manifest.identity if isinstance(checkpoint, LowBitCheckpoint) else "",
    )
    kv_dtype = network.new_cache(1).dtype
    own = None if rows is None else own_prefix(rows, kv_dtype, checkpoint.tokenizer_folder)
    base = BaseParts(config, weights, kv_dtype, choice.kernel.name == "exact", own)
    return OpenedModel(info, checkpoint, network, base, others)


def load_model(model: str | None, how: Loading) -> LoadedModel:
    """See :data:`Loader`."""
    from chatglm_backend.adapters.find import find_adapter
    from chatglm_backend.adapters.folder import inspect_adapter

    settings = how.settings
    sources = settings.adapters_of(model)
    for source in sources:  # before minutes of converting
        place = find_adapter(named_source(source)[1], progress=how.progress, cancel=how.cancel, env=how.env)
        inspect_adapter(place)
    opened = open_model(model, how)
    from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
    from chatglm_backend.checkpoint.prepare import matching_tokenizer
    from chatglm_backend.engine.engine import Engine
    from chatglm_backend.engine.kept_prefixes import KeptPrefixes
    from chatglm_backend.engine.options import EngineOptions

    info, checkpoint = opened.info, opened.checkpoint
    tokenizer = matching_tokenizer(checkpoint.tokenizer_folder, checkpoint.config)
    options = EngineOptions(prefix_cache_bytes=settings.prefix_cache_mb * 1_000_000)
    if settings.fixed("draft_tokens") is not None:
        options = replace(options, draft_tokens=settings.fixed("draft_tokens"))
    kept = None
    if how.blocks is not None and isinstance(checkpoint, LowBitCheckpoint):
        kept = KeptPrefixes(how.blocks, f"{checkpoint.manifest.identity} {info.kernel}")
    engine = Engine(opened.network, tokenizer, options, kept=kept)
    adapters = Adapters(opened.base, lambda found: setattr(engine, "adapters", found), how.env)
    how.progress(LoadProgress("warm_up"))
    _warm_up(engine, how.cancel, checkpoint.name)
    engines: dict[str, EnginePort[PreparedRequest]] = {"": engine}
    for name, make in opened.others.items():
        engines[name] = ComparisonEngine(engine, tokenizer, make)
    for source in sources:
        adapters.add(source)
    worker = _start_worker(engines, settings, info.kv_bytes_per_token)
    return LoadedModel(replace(info, adapters=adapters.infos()), tokenizer, engine.encode, worker, adapters, kept)


def _start_worker(
    engines: Mapping[str, EnginePort[PreparedRequest]], settings: Settings, bytes_per_token: int
) -> Worker[PreparedRequest]:
    from chatglm_backend.serving.admission import plan_admission
    from chatglm_backend.serving.worker import Worker, WorkerOptions

    admission = plan_admission(available_memory(), bytes_per_token, max_running=settings.fixed("max_running"))
    return Worker(
        engines, WorkerOptions.of(settings, admission.max_running, admission.kv_budget_bytes, available_memory)
    )


def _warm_up(engine: Engine, cancel: CancelToken, name: str) -> None:
    """Make two tokens, so that the first visitor does not pay for what is only done once."""
    request = GenerationRequest(
        "warm-up", prompt="你好", prompt_format="raw", params=GenerationParams(max_new_tokens=2), ignore_stop_ids=True
    )
    for _ in engine.generate(request, cancel):
        pass
    if cancel.cancelled:
        raise LoadCancelled(model=name)
    engine.prefix_cache.clear()
