"""The endpoint that OpenAI's clients speak, health, readiness and metrics. Knows no page and no engine."""

from __future__ import annotations

from chatglm_backend.api.health import operations_router
from chatglm_backend.api.openai import openai_router

__all__ = ["openai_router", "operations_router"]
