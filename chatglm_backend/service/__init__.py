"""The composition root: what terminal, page and endpoint hold. Importing it loads nothing heavy."""

from __future__ import annotations

from chatglm_backend.service.loading import LoadedModel, Loader, load_model
from chatglm_backend.service.service import Service

__all__ = ["LoadedModel", "Loader", "Service", "load_model"]
