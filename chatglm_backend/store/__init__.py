"""Conversations kept on disk, each visitor's apart. Knows no page, no HTTP and no model."""
