"""Settings: which layer wins, and what a mistake in each of them says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings, load_settings, spec, specs

# Read elsewhere, or made up by a container system.
FOREIGN = (
    "CHATGLM_CONFIG", "CHATGLM_INT4_LIBRARY", "CHATGLM_PORT_80_TCP", "CHATGLM_SERVICE_HOST", "CHATGLM_TEST_X",
)  # fmt: skip


def write(path: Path, text: str) -> Path:
    """Write a configuration file."""
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "environ", "flags", "expected"),
    [
        ("", {}, {}, {}),
        (
            'port = 1001\nhost = "10.0.0.1"\ntop-k = 5\n', {"CHATGLM_PORT": "1002", "CHATGLM_TOP_K": "6"},
            {"port": 1003, "top_k": None}, {"host": "10.0.0.1", "top_k": 6, "port": 1003},
        ),
        ('repo-id-or-model-path = "a/b"\nn_predict = 7\n', {}, {}, {"model": "a/b", "max_new_tokens": 7}),
        ("\ufeffthreads = 4\n", {}, {}, {"threads": 4}),
        ("threads = 4\n", {}, {"threads": "auto"}, {"threads": "auto"}),
        ("", dict.fromkeys(FOREIGN, "x"), {}, {}),
    ],
    ids=["defaults", "flag, variable, file", "the recipe's names", "Windows editors", "auto", "others' variables"],
)  # fmt: skip
def test_each_layer_wins_over_the_one_before(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, Any], expected: dict[str, Any]
) -> None:
    """File over default, environment over file, flag over environment; the rest is as the dataclass has it."""
    assert load_settings(flags, environ, file=write(tmp_path / "c.toml", text)) == Settings(**expected)


def test_below_a_file_there_are_no_settings(tmp_path: Path) -> None:
    """As in a home that is none."""
    file = write(tmp_path / "home", "")
    assert load_settings({}, {}, file=file / "chatglm-cpu" / "config.toml") == Settings()


def test_the_file_named_in_the_environment_is_read(tmp_path: Path) -> None:
    """CHATGLM_CONFIG names the file."""
    file = write(tmp_path / "張三.toml", "threads = 3\n")
    assert load_settings({}, {"CHATGLM_CONFIG": str(file)}).threads == 3


def test_a_typo_says_where_it_stands_and_what_was_meant(tmp_path: Path) -> None:
    """A mistyped key or variable is not silently ignored; broken TOML is no traceback."""
    file = write(tmp_path / "c.toml", "thread = 3\n")
    with refused(ConfigError, "setting.unknown_near", near="threads") as caught:
        load_settings({}, {}, file=file)
    assert caught.value.fields["name"] == Sentence("setting.in_file", name="thread", file=file)
    with refused(ConfigError, "setting.unknown_near", near="temperature"):
        load_settings({}, {"CHATGLM_TEMPRATURE": "1"}, file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not TOML"):
        load_settings({}, {}, file=write(file, "port = = 1"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"),
        ("port", "65536"),
        ("port", "x"),
        ("threads", "0"),
        ("threads", "many"),
        ("kernel", "fast"),
        ("kv_dtype", "int4"),
        ("listen", "maybe"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(tmp_path: Path, name: str, value: str) -> None:
    """Out of bounds, not a number, not a choice: each names the variable it came from."""
    variable = spec(name).variable
    with pytest.raises(ConfigError, match=variable):
        load_settings({}, {variable: value}, file=tmp_path / "none.toml")


def test_a_bad_secret_is_not_repeated(tmp_path: Path) -> None:
    """A secret of the wrong type does not appear in the error."""
    file = write(tmp_path / "c.toml", "token = 12345678\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {}, file=file)
    assert "12345678" not in str(caught.value)
    assert "hunter2" not in repr(Settings(token="hunter2", auth="me:hunter2"))  # noqa: S106


def test_every_default_satisfies_its_own_bounds(tmp_path: Path) -> None:
    """What the help text promises holds for the default, and every setting has a help text."""
    for name, found in specs().items():
        assert found.help.endswith((".", ")")), name
        if found.default is not None and found.kind != "bool":
            given = os.pathsep.join(found.default) if found.kind == "texts" else str(found.default)
            environ = {found.variable: given}
            loaded = load_settings({}, environ, file=tmp_path / "none.toml")
            assert getattr(loaded, name) == found.default


def test_sampling_takes_changes_over_defaults() -> None:
    """A request's own values win; what it leaves out comes from the settings."""
    params = Settings(temperature=0.5, top_k=9).sampling(temperature=0.7, stop=("x",))
    assert (params.temperature, params.top_k, params.stop) == (0.7, 9, ("x",))
