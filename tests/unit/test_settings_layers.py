"""Settings: which layer wins, and what a mistake in each of them says."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings, load_settings, spec, specs


def write(path: Path, text: str) -> Path:
    """Write a configuration file."""
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_any_layer(tmp_path: Path) -> None:
    """With no file, no variables and no flags, the dataclass's own defaults hold."""
    assert load_settings({}, {}, file=tmp_path / "none.toml") == Settings()


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    """File over default, environment over file, flag over environment."""
    file = write(tmp_path / "c.toml", 'port = 1001\nhost = "10.0.0.1"\ntop-k = 5\n')
    environ = {"CHATGLM_PORT": "1002", "CHATGLM_TOP_K": "6"}
    found = load_settings({"port": 1003, "top_k": None}, environ, file=file)
    assert (found.host, found.top_k, found.port) == ("10.0.0.1", 6, 1003)


def test_the_file_named_in_the_environment_is_read(tmp_path: Path) -> None:
    """CHATGLM_CONFIG names the file."""
    file = write(tmp_path / "張三.toml", "threads = 3\n")
    assert load_settings({}, {"CHATGLM_CONFIG": str(file)}).threads == 3


def test_the_recipes_names_are_understood(tmp_path: Path) -> None:
    """The original recipe's names mean the same settings."""
    file = write(tmp_path / "c.toml", 'repo-id-or-model-path = "a/b"\nn_predict = 7\n')
    found = load_settings({}, {}, file=file)
    assert (found.model, found.max_new_tokens) == ("a/b", 7)


def test_an_unknown_key_in_the_file_names_file_and_neighbour(tmp_path: Path) -> None:
    """A typo says where it stands and what was probably meant."""
    file = write(tmp_path / "c.toml", "thread = 3\n")
    with refused(ConfigError, "setting.unknown_near", near="threads") as caught:
        load_settings({}, {}, file=file)
    assert caught.value.fields["name"] == Sentence("setting.in_file", name="thread", file=file)


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    """A mistyped variable is not silently ignored."""
    with refused(ConfigError, "setting.unknown_near", near="temperature"):
        load_settings({}, {"CHATGLM_TEMPRATURE": "1"}, file=tmp_path / "none.toml")


def test_variables_of_other_parts_and_of_containers_are_left_alone(tmp_path: Path) -> None:
    """What is read elsewhere, or made up by a container system, is no mistake."""
    names = ("CHATGLM_CONFIG", "CHATGLM_INT4_LIBRARY", "CHATGLM_PORT_80_TCP", "CHATGLM_SERVICE_HOST", "CHATGLM_TEST_X")
    environ = dict.fromkeys(names, "x")
    assert load_settings({}, environ, file=tmp_path / "none.toml") == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"),
        ("port", "65536"),
        ("port", "x"),
        ("threads", "0"),
        ("threads", "many"),
        ("kernel", "fast"),
        ("kv_dtype", "int8"),
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


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    """Broken TOML is a configuration error, not a traceback."""
    with pytest.raises(ConfigError, match="not TOML"):
        load_settings({}, {}, file=write(tmp_path / "c.toml", "port = = 1"))


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """Windows editors put one in front."""
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfthreads = 4\n")
    assert load_settings({}, {}, file=tmp_path / "c.toml").threads == 4


def test_auto_is_a_value_where_it_is_allowed(tmp_path: Path) -> None:
    """Auto overrides a number from a lower layer."""
    file = write(tmp_path / "c.toml", "threads = 4\n")
    assert load_settings({"threads": "auto"}, {}, file=file).threads == "auto"


def test_every_default_satisfies_its_own_bounds(tmp_path: Path) -> None:
    """What the help text promises holds for the default, and every setting has a help text."""
    for name, found in specs().items():
        assert found.help.endswith((".", ")")), name
        if found.default is not None and found.kind != "bool":
            environ = {found.variable: str(found.default)}
            loaded = load_settings({}, environ, file=tmp_path / "none.toml")
            assert getattr(loaded, name) == found.default


def test_sampling_takes_changes_over_defaults() -> None:
    """A request's own values win; what it leaves out comes from the settings."""
    params = Settings(temperature=0.5, top_k=9).sampling(temperature=0.7, stop=("x",))
    assert (params.temperature, params.top_k, params.stop) == (0.7, 9, ("x",))
