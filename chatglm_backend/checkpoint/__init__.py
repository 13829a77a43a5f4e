"""Checkpoints: find, fetch, check, convert, keep. ``prepare`` is the usual way in; importing this loads nothing."""
