"""The two forward passes: ChatGLM-6B, and ChatGLM2-6B with ChatGLM3-6B. Torch only; no files, no bigdl."""
