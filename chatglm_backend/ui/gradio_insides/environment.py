"""What Gradio finds when it is imported: no way to other machines, none of its own variables, a folder of ours."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

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
    without_stubs = _WithoutStubs()
    with tempfile.TemporaryDirectory(prefix="chatglm-page-", ignore_cleanup_errors=True) as folder:
        environ["GRADIO_TEMP_DIR"] = folder
        sys.meta_path.insert(0, without_stubs)
        try:
            importlib.import_module("gradio")
        finally:
            sys.meta_path.remove(without_stubs)
            environ.update(routes)
        yield


class _WithoutStubs(MetaPathFinder):
    """Lets Gradio write no stubs for editors.

    Half of its import is reading the source of each of its 76 components, filling in a template, and comparing that
    with a ``.pyi`` file beside it, which is written into the installed package where it differs.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is None or found.origin is None or not isinstance(found.loader, SourceFileLoader):
            return found
        return spec_from_file_location(name, found.origin, loader=_StublessLoader(name, found.origin))


class _StublessLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        vars(module)["create_or_modify_pyi"] = lambda *_: None
