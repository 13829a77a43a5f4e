"""INT4 through bigdl-llm: its block format, its native library, and faster kernels on the same bytes."""
