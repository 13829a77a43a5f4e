"""What the log says of a request: counts and times, and nothing that was written, unless that was asked for."""

from __future__ import annotations

import hashlib
from typing import Any

from chatglm_backend.core import Completed, GenerationRequest
from chatglm_backend.errors import RequestError
from chatglm_backend.serving.ports import Prepared


def accepted_facts(request: GenerationRequest, prepared: Prepared, prompts: bool) -> dict[str, Any]:  # noqa: FBT001
    """A request that was taken into the queue. The visitor's name is hashed: it is a key to their page."""
    facts: dict[str, Any] = {
        "request": request.request_id,
        "visitor": hashlib.sha256(request.visitor.encode("utf-8", "replace")).hexdigest()[:12],
        "prompt_tokens": prepared.prompt_tokens,
        "max_new_tokens": request.params.max_new_tokens,
    }
    if request.adapter:
        facts["adapter"] = request.adapter
    if prompts:
        facts["prompt"] = request.prompt if request.prompt is not None else [m.content for m in request.messages]
    return facts


def ended_facts(request_id: str, result: Completed | RequestError) -> dict[str, Any]:
    """A request that is over. Times in seconds."""
    if isinstance(result, RequestError):
        return {"request": request_id, "end": result.code}
    usage, timing = result.usage, result.timing
    return {
        "request": request_id,
        "end": result.finish_reason.value,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "queue_wait_s": round(timing.queue_wait_s, 4),
        "ttft_s": None if timing.ttft_s is None else round(timing.ttft_s, 4),
        "total_s": round(timing.total_s, 4),
    }
