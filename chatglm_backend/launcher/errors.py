"""What can go wrong before the page starts."""

from __future__ import annotations

from typing import ClassVar

from chatglm_backend.errors import ChatGLMError

__all__ = ["LaunchError"]


class LaunchError(ChatGLMError):
    """The environment could not be made; the reason says what to do."""

    code: ClassVar[str] = "launch"
    template: ClassVar[str] = "{reason}."
