"""ChatGLM in INT4 on an ordinary CPU, through bigdl-llm.

Importing this package loads nothing heavy: torch, gradio, transformers and bigdl
are imported by the rooms that need them, when they are needed.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
