"""What can go wrong before the page starts."""

from __future__ import annotations

from chatglm_backend.errors import ChatGLMError


class LaunchError(ChatGLMError, code="launch"):
    """The environment could not be made; the reason says what to do."""
