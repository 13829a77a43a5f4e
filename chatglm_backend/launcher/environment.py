"""Makes and keeps the Python environment: new, half-made, changed or ready.

Two files inside it tell its state. ``chatglm-setup.json`` is written last and says what was installed;
``chatglm-unfinished`` is written first and removed last, so that one left behind means: make it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.launcher.torch_source import CPU_INDEX, CudaFinding, cuda_in_report, torch_index, torch_requirement
from chatglm_backend.network import proxy_of
from chatglm_backend.sentences import Sentence

EnvironmentState = Literal["ready", "changed", "foreign", "unfinished", "missing", "not-an-environment"]

_STAMP = "chatglm-setup.json"
_UNFINISHED = "chatglm-unfinished"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


class LaunchError(ChatGLMError, code="launch"):
    """The environment could not be made; the reason says what to do."""


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """One environment at ``path`` for the requirement ``files``; ``say`` shows a line to the user."""

    path: Path
    files: tuple[Path, ...]
    environ: Mapping[str, str]
    say: Callable[[Sentence], None]

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        """Where its packages lie, for this Python's version."""
        if os.name == "nt":
            return self.path / "Lib" / "site-packages"
        return self.path / "lib" / f"python{_version()}" / "site-packages"

    def state(self) -> EnvironmentState:
        """Return what is there, touching nothing."""
        if not self.path.exists():
            return "missing"
        if (self.path / _UNFINISHED).exists():
            return "unfinished"
        stamp = _read_stamp(self.path / _STAMP)
        if stamp is None and not (self.path / "pyvenv.cfg").is_file():
            return "not-an-environment" if not self.path.is_dir() or any(self.path.iterdir()) else "missing"
        if not self._runs() or (stamp is not None and stamp.get("python") != _version()):
            return "unfinished"
        if stamp is None:
            return "foreign"
        wanted = self._digests()
        had = stamp.get("requirements")
        known = had if isinstance(had, dict) else {}
        return "ready" if all(known.get(name) == digest for name, digest in wanted.items()) else "changed"

    def prepare(self, *, own_use: bool = False) -> None:
        """Bring the environment to ``ready``. Raises ``LaunchError`` with one sentence when that fails.

        ``own_use``: whoever prepares it is who uses it, and Python compiles what he imports, a tenth of what pip would.
        """
        state = self.state()
        if state == "ready":
            return
        if state == "not-an-environment":
            raise LaunchError(reason=Sentence("launch.in_the_way", path=self.path))
        if state == "unfinished" and self.python.exists() and not os.access(self.python, os.X_OK):
            raise LaunchError(reason=Sentence("launch.not_permitted", path=self.python))
        if state == "unfinished":
            self.say(Sentence("launch.anew", name=self.path.name))
            self._remove()
        if state in ("unfinished", "missing"):
            self._create()
        self._install(("--no-compile",) if own_use and not self.environ.get("PYTHONDONTWRITEBYTECODE") else ())

    def _runs(self) -> bool:
        return self._call([str(self.python), "-c", "import pip"], quiet=True) == 0

    def _digests(self) -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files}

    def _remove(self) -> None:
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise LaunchError(
                reason=Sentence("launch.cannot_remove", path=self.path, problem=error.strerror)
            ) from error

    def _create(self) -> None:
        base = str(getattr(sys, "_base_executable", "") or sys.executable)
        self.say(Sentence("launch.making", path=self.path, version=_version()))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / _UNFINISHED).touch()
        except OSError as error:
            raise LaunchError(reason=Sentence("launch.cannot_make", path=self.path, problem=error.strerror)) from error
        if self._call([base, "-m", "venv", str(self.path)]) != 0:
            raise LaunchError(reason=Sentence("launch.no_venv", python=base, version=_version()))

    def _install(self, how: tuple[str, ...]) -> None:
        self._modern_pip()
        finding = self._look_ahead()
        (self.path / _UNFINISHED).touch()
        (self.path / _STAMP).unlink(missing_ok=True)
        if finding:
            self._torch_without_cuda(finding, how)
        self.say(Sentence("launch.installing", files=", ".join(file.name for file in self.files)))
        arguments = [word for file in self.files for word in ("-r", str(file))]
        if self._pip("install", *how, *arguments) != 0:
            raise LaunchError(reason=Sentence("launch.pip_failed", retry=self._retry()))
        stamp = {"python": _version(), "requirements": self._digests()}
        (self.path / _STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        (self.path / _UNFINISHED).unlink(missing_ok=True)

    def _modern_pip(self) -> None:
        """Update a pip that would download whole packages only to look at them."""
        code = "import pip, sys; v = pip.__version__.split('.'); sys.exit((int(v[0]), int(v[1])) < (23, 1))"
        if self._call([str(self.python), "-c", code], quiet=True) != 0:
            self._pip("install", "--quiet", "--upgrade", "pip")

    def _look_ahead(self) -> CudaFinding:
        """Ask pip, on Linux, what torch would bring. Changes nothing, so a failure leaves all as it was."""
        torch = self._torch()
        if not sys.platform.startswith("linux") or torch is None or torch_index(self.environ) is None:
            return CudaFinding()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "report.json"
            if self._pip("install", "--quiet", "--dry-run", "--report", str(target), torch) != 0:
                raise LaunchError(reason=Sentence("launch.not_found", package=torch, retry=self._retry()))
            try:
                report = json.loads(target.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return CudaFinding()
        return cuda_in_report(report) if isinstance(report, dict) else CudaFinding()

    def _torch_without_cuda(self, finding: CudaFinding, how: tuple[str, ...]) -> None:
        index, torch = torch_index(self.environ), self._torch()
        if index is None or torch is None:
            return
        self.say(Sentence("launch.without_cuda", index=index, saving=finding.saving))
        patience = ("--retries", "1", "--timeout", "15")
        if self._pip("install", *how, *patience, "--no-deps", "--index-url", index, torch) != 0:
            self.say(Sentence("launch.with_cuda", index=index))

    def _retry(self) -> Sentence:
        """What to do; pip understands fewer kinds of proxies than desktops set."""
        found = proxy_of(self.environ, CPU_INDEX)
        return Sentence("launch.retry_proxy", variable=found[0]) if found else Sentence("launch.retry")

    def _torch(self) -> str | None:
        lines = [torch_requirement(file.read_text(encoding="utf-8")) for file in self.files]
        return next((line for line in lines if line), None)

    def _pip(self, *arguments: str) -> int:
        return self._call([str(self.python), *_PIP, *arguments])

    def _call(self, command: Sequence[str], *, quiet: bool = False) -> int:
        sink = subprocess.DEVNULL if quiet else None
        # pip's own lines go to stderr: stdout belongs to --print-env and to the page
        output = sink if quiet else sys.stderr
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=sink, env=dict(self.environ), check=False
            )
        except OSError:
            return 127
        return done.returncode


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _read_stamp(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
