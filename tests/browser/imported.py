"""Imported by the process that every page of the browser tests is forked from: what takes seconds, once."""

from __future__ import annotations

import os

import uvicorn  # noqa: F401

from chatglm_backend.network import quiet_environment
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel
from chatglm_backend.ui.gradio_insides.environment import gradio_environment
from webui import create_app

quiet_environment(os.environ)
with gradio_environment(os.environ):
    _settings = Settings(history=False)
    create_app(Service(_settings, loader=ScriptedModel()), _settings)
