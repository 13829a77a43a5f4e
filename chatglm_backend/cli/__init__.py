"""The terminal: one module per command. Heavy packages load inside commands, so that ``--help`` is quick."""
