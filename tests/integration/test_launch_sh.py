"""launch.sh as a user runs it, with stub interpreters, real environments, and no network."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from launch_project import REAL, Project, installed, make_index, make_project, make_wheel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="launch.sh is for Linux")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a project in a folder with a space and Chinese characters."""
    return make_project(tmp_path / "my 张三")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Give a project whose environment is made, shared by tests that only start it."""
    made = make_project(tmp_path_factory.mktemp("ready") / "my 张三")
    done = made.run("--setup-only")
    assert done.returncode == 0, done.stderr
    return made


def refusal(project: Project, *arguments: str, code: int = 1) -> str:
    """The one sentence that a run ends with."""
    done = project.run(*arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    return done.stderr


def last_line(text: str) -> str:
    """Return the last line of an output."""
    return text.strip().splitlines()[-1]


def test_the_page_gets_its_flags_and_threads(ready: Project) -> None:
    """Started through a link from a folder that cannot be written, the page gets its flags and variables."""
    link = ready.bin.parent / "go"
    link.unlink(missing_ok=True)
    link.symlink_to("project/launch.sh")
    done = ready.run("--threads", "1", "--model", "a 模型", "--port=1", cwd=Path("/proc"), script=link)
    assert done.returncode == 0, done.stderr
    page = json.loads(last_line(done.stdout))
    assert page["args"] == ["--model", "a 模型", "--port=1"]
    assert (page["env"]["OMP_NUM_THREADS"], page["env"]["CHATGLM_THREADS"]) == ("1", "1")
    assert Path(page["exe"]).parent.parent == ready.root / ".venv"


def test_a_second_start_installs_nothing(ready: Project) -> None:
    """With everything there, no pip runs, so the page starts without a network."""
    done = ready.run()
    assert done.returncode == 0, done.stderr
    assert "installing" not in done.stderr
    assert "making" not in done.stderr


def test_without_any_python_a_ready_environment_starts(ready: Project) -> None:
    """The environment's own Python is enough, when python3 has gone from the PATH."""
    hidden = ready.bin / "python3"
    hidden.rename(ready.bin / "hidden")
    try:
        done = ready.run()
    finally:
        (ready.bin / "hidden").rename(hidden)
    assert done.returncode == 0, done.stderr


def test_the_users_omp_num_threads_is_kept(ready: Project) -> None:
    """A number the user has set reaches the page unchanged."""
    own = Project(ready.root, ready.bin, {"OMP_NUM_THREADS": "3"})
    page = json.loads(last_line(own.run().stdout))
    assert page["env"]["OMP_NUM_THREADS"] == "3"
    assert "CHATGLM_PLANNED_THREADS" not in page["env"]


def test_taskset_is_respected(ready: Project) -> None:
    """Held on one CPU, the plan has one thread."""
    taskset = shutil.which("taskset")
    if taskset is None:
        pytest.skip("taskset is not installed")
    ready.stub("pinned", f'exec "{taskset}" -c "$(cat cpu)" sh ./launch.sh --print-env')
    (ready.root / "cpu").write_text(str(min(os.sched_getaffinity(0))), encoding="utf-8")
    done = ready.run(script=ready.bin / "pinned")
    assert "export OMP_NUM_THREADS=1" in done.stdout.splitlines()


def test_print_env_and_dry_run_change_nothing(project: Project) -> None:
    """Both only talk, on stdout, and make no environment."""
    printed = project.run("--print-env")
    assert all(line.startswith(("export ", "# ")) for line in printed.stdout.splitlines())
    dry = project.run("--dry-run", "--port", "7861")
    assert "would be made" in dry.stdout
    assert last_line(dry.stdout).endswith("webui.py' --port 7861")
    assert not (project.root / ".venv").exists()


def test_help_names_every_flag(project: Project) -> None:
    """The help text explains the flags the launcher takes."""
    text = project.run("--help").stdout
    for flag in ("--profile", "--threads", "--allocator", "--print-env", "--dry-run", "--setup-only", "PYTHON"):
        assert flag in text


def test_a_wrong_flag_value_is_one_sentence(project: Project) -> None:
    """A wrong profile stops at once with exit code 2."""
    assert "server or client" in refusal(project, "--profile", "turbo", code=2)


@pytest.mark.parametrize(
    ("uname", "words"),
    [("Darwin arm64", "macOS"), ("Linux aarch64", "Linux on aarch64"), ("MINGW64_NT-10.0 x86_64", "launch.ps1")],
)
def test_other_platforms_stop_before_anything(project: Project, uname: str, words: str) -> None:
    """macOS, ARM and Git Bash get one sentence, and no Python is even looked for."""
    system, machine = uname.split()
    project.stub("uname", f'case "$1" in -s) echo {system} ;; *) echo {machine} ;; esac')
    project.stub("python3", "touch ran; exit 1")
    assert words in refusal(project)
    assert not (project.root / "ran").exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'pyenv: python3: command not found' >&2; exit 127", "does not run"),
        ("echo version 3.8", "is Python 3.8"),
        ("echo bits 3.11", "32-bit"),
        ("echo kind pypy", "is pypy"),
        ("exit 0", "does not run"),
    ],
)
def test_a_python_that_does_not_count(project: Project, body: str, words: str) -> None:
    """A shim, an old, a 32-bit and another Python each get one sentence that says what to do."""
    project.stub("python3", body)
    assert words in refusal(project)


def test_no_python_at_all(project: Project) -> None:
    """An empty machine is told what to install."""
    (project.bin / "python3").unlink()
    done = project.run()
    assert done.returncode == 1
    assert "sudo apt install python3 python3-venv" in done.stderr


def test_debian_without_venv(project: Project, tmp_path: Path) -> None:
    """A Python without ensurepip is recognised by the real probe, and the package to install is named."""
    (tmp_path / "ensurepip.py").write_text("raise ImportError\n", encoding="utf-8")
    project.stub("python3", f'[ "$1" = -I ] && shift\nPYTHONPATH="{tmp_path}" exec "{REAL}" "$@"')
    assert "sudo apt install python{}.{}-venv".format(*sys.version_info) in refusal(project)


def test_the_next_candidate_is_taken(project: Project) -> None:
    """A broken PYTHON is named, a broken python3 passed over, and a versioned name used."""
    project.stub("python3.12", f'exec "{REAL}" "$@"')
    project.stub("python3", "exit 127")
    project.environ["PYTHON"] = "/no/such/python"
    done = project.run("--dry-run")
    assert done.returncode == 0
    assert "PYTHON=/no/such/python cannot be used" in done.stderr


def test_a_folder_in_the_way_is_not_deleted(project: Project) -> None:
    """A folder that is no environment stays, and the user is told."""
    precious = project.root / ".venv" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("mine", encoding="utf-8")
    refusal(project)
    assert precious.read_text(encoding="utf-8") == "mine"


def test_cuda_is_left_out_and_failures_heal(project: Project, tmp_path: Path) -> None:
    """Plain pip would bring CUDA: torch comes from the other index. What a failed install left is not trusted."""
    plain, cpu = tmp_path / "plain", tmp_path / "cpu"
    make_wheel(plain / "torch", "torch", "2.13.0", ("nvidia-cublas",))
    make_wheel(plain / "nvidia-cublas", "nvidia_cublas", "13.0")
    make_wheel(cpu / "torch", "torch", "2.13.0+cpu")
    project.environ |= {"PIP_INDEX_URL": make_index(plain), "CHATGLM_TORCH_INDEX": make_index(cpu)}
    requirements = project.root / "requirements.txt"
    requirements.write_text("torch==2.13.0  # why\nmissing-package\n", encoding="utf-8")
    project.environ["all_proxy"] = "socks://127.0.0.1:1"
    failed = project.run()
    assert failed.returncode == 1
    assert "check the connection and the proxy in all_proxy" in last_line(failed.stderr)
    del project.environ["all_proxy"]
    unfinished, old = project.root / ".venv/chatglm-unfinished", project.root / ".venv/old"
    assert unfinished.exists()
    old.touch()

    requirements.write_text("torch==2.13.0  # why\n", encoding="utf-8")
    healed = project.run("--setup-only")
    python = project.root / ".venv/bin/python"
    assert healed.returncode == 0, healed.stderr
    assert "making it anew" in healed.stderr
    assert not unfinished.exists()
    assert not old.exists()
    assert "saves CUDA packages (1)," in healed.stderr
    assert (installed(python, "torch"), installed(python, "nvidia-cublas")) == ("2.13.0+cpu", "")


def test_an_unreachable_index_falls_back(ready: Project, tmp_path: Path) -> None:
    """Where the other index gives nothing, plain pip goes on, and changed requirements are installed again.

    What somebody else may start later is compiled; for a start at once Python compiles what is imported.
    """
    plain = tmp_path / "plain"
    make_wheel(plain / "torch", "torch", "2.13.0")
    make_wheel(plain / "extra", "extra", "1.0")
    indexes = {"PIP_INDEX_URL": make_index(plain), "CHATGLM_TORCH_INDEX": (tmp_path / "none").as_uri()}
    project = Project(ready.root, ready.bin, indexes)
    requirements = project.root / "requirements.txt"
    requirements.write_text("torch==2.13.0\n", encoding="utf-8")
    first = project.run("--setup-only")
    python = project.root / ".venv/bin/python"
    assert first.returncode == 0, first.stderr
    assert "going on with plain pip" in first.stderr
    assert installed(python, "torch") == "2.13.0"

    requirements.write_text("torch==2.13.0\nextra\n", encoding="utf-8")
    assert project.run().returncode == 0
    assert installed(python, "extra") == "1.0"
    compiled = [
        path.name.split(".")[0] for path in (project.root / ".venv/lib").glob("*/site-packages/__pycache__/*.pyc")
    ]
    assert "torch" in compiled
    assert "extra" not in compiled
