"""A small copy of the project, stub interpreters and a local package index, for the launcher's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "uname", "dirname", "readlink", "tail", "timeout", "env", "cat")
REAL = str(getattr(sys, "_base_executable", sys.executable))
PAGE = (
    "import json, os, sys\nprint(json.dumps({'args': sys.argv[1:], 'env': dict(os.environ), 'exe': sys.executable}))\n"
)


_WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass
class Project:
    """A folder with the launcher in it, and a PATH that holds only what a test puts there."""

    root: Path
    bin: Path
    environ: dict[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, cwd: Path | None = None, script: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run launch.sh with these arguments, without a terminal."""
        return subprocess.run(
            [str(self.bin / "sh"), str(script or self.root / "launch.sh"), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.root), "PIP_INDEX_URL": "file:///nowhere", **self.environ},
            cwd=cwd or self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=110,
            check=False,
        )

    def stub(self, name: str, body: str) -> Path:
        """Put an executable shell script on the PATH."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return path


def make_project(folder: Path) -> Project:
    """Copy the launcher and what it imports below ``folder``; python3 is the interpreter of the tests."""
    root, binaries = folder / "project", folder / "bin"
    binaries.mkdir(parents=True)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, f"{tool} is needed"
        (binaries / tool).symlink_to(found)
    package = root / "chatglm_backend"
    for room in ("hardware", "launcher", "locales"):
        shutil.copytree(ROOT / "chatglm_backend" / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "chatglm_backend").glob("*.py"):
        shutil.copy(file, package / file.name)
    shutil.copy(ROOT / "launch.sh", root / "launch.sh")
    (root / "webui.py").write_text(PAGE, encoding="utf-8")
    (root / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    project = Project(root, binaries)
    project.stub("python3", f'exec "{REAL}" "$@"')
    return project


def make_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    """Write the smallest wheel that pip installs."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name.replace('-', '_')}.py", "")
        wheel.writestr(f"{info}/METADATA", "".join(lines))
        wheel.writestr(f"{info}/WHEEL", _WHEEL)
        wheel.writestr(f"{info}/RECORD", "")


def make_index(folder: Path) -> str:
    """Turn a folder of package folders with wheels into an index that pip reads without a network."""
    for package in folder.iterdir():
        links = "".join(f'<a href="{w.name.replace("+", "%2B")}">{w.name}</a>\n' for w in package.glob("*.whl"))
        (package / "index.html").write_text(f"<html><body>{links}</body></html>", encoding="utf-8")
    return folder.as_uri()


def installed(python: Path, package: str) -> str:
    """Return the version of a package in an environment, empty when it is absent."""
    code = (
        "import sys, importlib.metadata as m\ntry: print(m.version(sys.argv[1]))\nexcept m.PackageNotFoundError: pass"
    )
    done = subprocess.run(
        [str(python), "-I", "-c", code, package], capture_output=True, text=True, check=True, env={"PATH": os.defpath}
    )
    return done.stdout.strip()
