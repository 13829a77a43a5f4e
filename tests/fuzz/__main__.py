"""The command: each format in a process of its own, so that one that ends is told."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

_SECONDS = 20
_SHOWN = 5


def fuzz(name: str, count: int, number: int, keep: Path) -> int:
    """Read so many changed inputs of one format; returns how many kinds of failure there were."""
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        whole = {file: file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}
        right = target.read()
        seen = {"inputs": 0, "refused": 0}
        failures: dict[str, str] = {}

        @seed(number)
        @settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.data())
        def one(data: st.DataObject) -> None:
            file = data.draw(st.sampled_from(sorted(target.files)))
            changed = data.draw(st.composite(lambda draw: target.files[file](draw, whole[file]))())
            for path, content in whole.items():
                if path == file or not path.is_file() or path.read_bytes() != content:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(changed if path == file else content)
            keep.write_bytes(file.name.encode() + b"\n" + changed)  # what is left where the process ends
            seen["inputs"] += 1
            signal.alarm(_SECONDS)
            try:
                found = target.read()
                if target.checked and changed != whole[file] and not _same(found, right):
                    raise AssertionError(f"read as something else: {str(found)[:200]}")
            except target.refuses:
                seen["refused"] += 1
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                places = traceback.extract_tb(error.__traceback__)
                place = next((p for p in reversed(places) if "chatglm_backend" in p.filename), places[-1])
                kind = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
                if kind not in failures:
                    failures[kind] = str(error)[:300]
                    keep.with_name(f"{name}-{len(failures)}-{file.name}").write_bytes(changed)
            finally:
                signal.alarm(0)

        began = time.monotonic()
        one()
        sys.stdout.write(
            f"{name}: {seen['inputs']} inputs, {seen['refused']} refused, {time.monotonic() - began:.0f} s\n"
        )
        for kind, message in list(failures.items())[:_SHOWN]:
            sys.stdout.write(f"    {kind}: {message}\n")
        return len(failures)


def _same(found: object, right: object) -> bool:
    """Whether what was read is what was written, or where that has parts, each is that or nothing."""
    if found is None or found == right:
        return True
    if isinstance(found, tuple) and isinstance(right, tuple):
        return all(map(_same, found, right))
    return False


def _too_long(_: int, __: FrameType | None) -> None:
    raise TimeoutError(f"not read within {_SECONDS} seconds")


def main() -> int:
    """All formats that were named, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").strip())
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(TARGETS))
    parser.add_argument("-n", type=int, default=200, help="inputs of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where inputs that fail are left")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    if options.here:
        signal.signal(signal.SIGALRM, _too_long)
        warnings.simplefilter("ignore")
        return min(1, fuzz(options.formats[0], options.n, options.seed, keep / f"{options.formats[0]}-last"))
    worst = 0
    for name in options.formats or TARGETS:
        flags = [name, "--here", "-n", str(options.n), "--seed", str(options.seed), "--keep", str(keep)]
        code = subprocess.run([sys.executable, "-m", "tests.fuzz", *flags], check=False).returncode
        if code not in (0, 1):
            sys.stdout.write(f"{name}: the process ended with {code}; the input is {keep / f'{name}-last'}\n")
        worst = max(worst, abs(code))
    return min(worst, 1)


if __name__ == "__main__":
    sys.exit(main())
