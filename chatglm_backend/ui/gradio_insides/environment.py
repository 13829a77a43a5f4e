"""What Gradio finds when it is imported: no way to other machines, none of its own variables, a folder of ours."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from chatglm_backend.network import QUIET, ROUTES


@contextmanager
def gradio_environment(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Import Gradio, and keep a private temporary folder for it until the end.

    Its import makes HTTP clients, which read every proxy and certificate variable and die of one that they do not
    understand, though the page asks nobody. ``GRADIO_`` variables, the user's for other programs, would open folders
    or change limits. The usual temporary folder has one name for all users of a machine.
    """
    for name in [name for name in environ if name.upper().startswith("GRADIO_") and name not in QUIET]:
        del environ[name]
    routes = {name: environ.pop(name) for name in ROUTES if name in environ}
    with tempfile.TemporaryDirectory(prefix="chatglm-page-", ignore_cleanup_errors=True) as folder:
        environ["GRADIO_TEMP_DIR"] = folder
        try:
            importlib.import_module("gradio")
        finally:
            environ.update(routes)
        yield
