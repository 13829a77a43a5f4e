"""Every setting, once: its default, bounds, help text, and where its value came from.

Defaults < TOML file < ``CHATGLM_*`` environment < flags. The terminal and the page read their
help texts and bounds from :func:`spec`. Knows no model, no page and no HTTP.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from chatglm_backend.errors import ConfigError
from chatglm_backend.sampling import GenerationParams, check_number, sampling_fields
from chatglm_backend.sentences import Sentence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AUTO: Literal["auto"] = "auto"
CHAT_TOKENS, PROMPT_TOKENS = 512, 128
"""Most tokens of an answer in a conversation, and on a page to one prompt, where nobody set it."""
_PREFIX = "CHATGLM_"
# Variables of ours that are read elsewhere, and those that container systems make up from a service's name.
_OTHER_VARIABLES = frozenset({"CONFIG", "INT4_LIBRARY", "TORCH_INDEX", "VENV"})
_OTHER_PREFIXES = ("TEST_", "PLANNED_", "LAUNCH_", "LAUNCHER_", "SERVICE_", "PORT_")

Kind = Literal["text", "texts", "int", "float", "bool", "int or auto"]


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """What is known of one setting. ``low`` and ``high`` are inclusive; ``choices`` empty where anything goes."""

    name: str
    kind: Kind
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    secret: bool = False
    other_name: str = ""
    separator: str = os.pathsep

    @property
    def variable(self) -> str:
        """The environment variable."""
        return _PREFIX + self.name.upper()

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag in the terminal, and the original recipe's where that has another."""
        return tuple("--" + name.replace("_", "-") for name in (self.name, self.other_name) if name)


def _setting(default: Any, kind: Kind, help_text: str, **more: Any) -> Any:  # noqa: ANN401
    """A field of :class:`Settings`; ``more`` is what :class:`SettingSpec` knows beside."""
    return field(
        default=default, repr=not more.get("secret", False), metadata={"kind": kind, "help": help_text, **more}
    )


def _sampling(name: str, other_name: str = "") -> Any:  # noqa: ANN401
    found = sampling_fields()[name]
    return _setting(found.default, found.kind, found.help, low=found.low, high=found.high, other_name=other_name)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run. ``None`` and ``"auto"`` leave the choice to the program."""

    model: str | None = _setting(
        None, "text", "Model folder, hub id such as THUDM/chatglm-6b, name such as chatglm3-6b, or low-bit folder.",
        other_name="repo_id_or_model_path",
    )  # fmt: skip
    family: str = _setting(
        AUTO,
        "text",
        "Family of the checkpoint, where its folder does not tell.",
        choices=(AUTO, "chatglm", "chatglm2", "chatglm3", "glm4"),
    )
    adapter: tuple[str, ...] = _setting(
        (), "texts", "Fine-tune beside the model (LoRA or P-Tuning), folder or hub id, or name=folder; may be repeated."
    )
    revision: str | None = _setting(None, "text", "Branch, tag or commit of a hub model.")
    cache: str | None = _setting(None, "text", "Folder for low-bit checkpoints (default: the system's cache folder).")
    data: str | None = _setting(None, "text", "Folder for conversations (default: the system's data folder).")
    no_cache: bool = _setting(default=False, kind="bool", help_text="Convert in memory and write nothing to disk.")
    threads: int | str = _setting(
        AUTO, "int or auto", "Compute threads (auto: one per physical core).", low=1, high=1024
    )
    kernel: str = _setting(AUTO, "text", "How INT4 products are computed.", choices=(AUTO, "vnni", "bigdl", "exact"))
    kv_dtype: str = _setting(
        "float16", "text", "Number format of the KV cache; int8: half the memory, answers may differ a little.",
        choices=("float16", "bfloat16", "float32", "int8"),
    )  # fmt: skip
    context: int | str = _setting(
        AUTO, "int or auto",
        "Most tokens of a prompt and its answer (auto: the model's, at most 8192 and what memory admits).",
        low=16, high=1 << 24,
    )  # fmt: skip
    draft_tokens: int | str = _setting(
        AUTO, "int or auto", "Draft tokens, taken from the text so far and checked in one step; 0: off.", low=0, high=64
    )
    prefix_cache_mb: int = _setting(
        512, "int", "Memory for the beginnings of conversations, in MB; 0: off.", low=0, high=1_000_000
    )
    max_running: int | str = _setting(
        AUTO, "int or auto", "Answers made at the same time; the others wait (auto: from memory).", low=1, high=1024
    )
    max_new_tokens: int = _sampling("max_new_tokens", "n_predict")
    temperature: float = _sampling("temperature")
    top_p: float = _sampling("top_p")
    top_k: int = _sampling("top_k")
    min_p: float = _sampling("min_p")
    repetition_penalty: float = _sampling("repetition_penalty")
    seed: int | None = _sampling("seed")
    host: str | None = _setting(
        None, "text", "Address that the page listens on (default: 127.0.0.1; with --listen: all addresses)."
    )
    port: int = _setting(7860, "int", "Port that the page listens on.", low=1, high=65535)
    root_path: str = _setting("", "text", "Path under which a reverse proxy shows the page.")
    listen: bool = _setting(default=False, kind="bool", help_text="Share on the local network, with an access token.")
    insecure_listen: bool = _setting(
        default=False, kind="bool", help_text="Share without any access check: everyone on the network may use it."
    )
    auth: str | None = _setting(None, "text", "user:password instead of an access token.", secret=True)
    token: str | None = _setting(None, "text", "Access token to use instead of a random one.", secret=True)
    allowed_hosts: str = _setting("", "text", "Further host names to answer to, separated by commas.")
    allow_origin: tuple[str, ...] = _setting(
        (), "texts", "Web app of another origin that may use the endpoint, as http://localhost:3000; may be repeated.",
        separator=",",
    )  # fmt: skip
    trusted_proxies: tuple[str, ...] = _setting(
        (), "texts", "Address or network of a reverse proxy that is believed about its visitors; may be repeated.",
        separator=",",
    )  # fmt: skip
    tls_cert: str | None = _setting(None, "text", "Certificate file (PEM) for https.")
    tls_key: str | None = _setting(None, "text", "Key file (PEM) for https.")
    cluster: bool = _setting(
        default=False, kind="bool", help_text="Answer on several machines, which join this one (docs/cluster.md)."
    )
    cluster_address: str | None = _setting(
        None,
        "text",
        "HOST:PORT of the cluster's head: here, or where it runs already (default: here, port 6379).",
        other_name="address",
    )
    queue_limit: int = _setting(64, "int", "Most requests that wait.", low=0, high=100_000)
    visitor_limit: int = _setting(4, "int", "Most answers of one visitor made at the same time.", low=1, high=100_000)
    request_timeout: float = _setting(600.0, "float", "Most seconds for one answer; 0: no limit.", low=0, high=86_400)
    disconnect_grace: float = _setting(
        10.0, "float", "Seconds that an answer goes on after its page has gone.", low=0, high=3600
    )
    drain_seconds: float = _setting(
        30.0, "float", "Seconds for running answers when the program is asked to end.", low=0, high=3600
    )
    history: bool = _setting(default=True, kind="bool", help_text="Keep conversations on this machine's disk.")
    kv_disk_mb: int = _setting(
        2000,
        "int",
        "Disk for what was read of kept conversations, in MB, and at most a tenth of what is free; 0: off.",
        low=0,
        high=10_000_000,
    )
    history_days: int = _setting(
        0, "int", "Days after which an untouched conversation is deleted; 0: never.", low=0, high=36_500
    )
    document_mb: int = _setting(20, "int", "Largest file that may come with a question, in MB.", low=1, high=1000)
    log_level: str = _setting(
        "warning", "text", "Least serious log lines shown.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("text", "text", "Form of log lines.", choices=("text", "json"))
    log_prompts: bool = _setting(default=False, kind="bool", help_text="Write prompts to the log.")

    def sampling(self, **changes: Any) -> GenerationParams:  # noqa: ANN401
        """Return the generation parameters: as set, but for ``changes``. Raises :class:`InvalidRequest`."""
        return GenerationParams(**{**{name: getattr(self, name) for name in sampling_fields()}, **changes})

    def fixed(self, name: str) -> Any:  # noqa: ANN401
        """A setting's value, ``None`` where it leaves the choice to the program."""
        value = getattr(self, name)
        return None if value == AUTO else value

    def adapters_of(self, model: str | None) -> tuple[str, ...]:
        """The fine-tunes that ``model`` begins with: those set are the set model's, another one begins without."""
        return self.adapter if model == self.model else ()

    def answer_tokens(self, usual: int) -> int:
        """Most tokens of an answer as set, or ``usual`` where the setting has its default."""
        chosen = self.max_new_tokens
        return usual if chosen == sampling_fields()["max_new_tokens"].default else chosen


@lru_cache(maxsize=1)
def specs() -> dict[str, SettingSpec]:
    """Return all settings by name, in their order."""
    return {f.name: SettingSpec(name=f.name, default=f.default, **f.metadata) for f in fields(Settings)}


def spec(name: str) -> SettingSpec:
    """Return what is known of one setting. Raises KeyError."""
    return specs()[name]


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the TOML file is looked for: ``CHATGLM_CONFIG``, or the system's configuration folder."""
    environ = os.environ if environ is None else environ
    given = environ.get(_PREFIX + "CONFIG")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_config_dir("chatglm-cpu", appauthor=False)) / "config.toml"


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    file: Path | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Put the settings together. ``flags`` with ``None`` were not given; a file that is not there is no error.

    ``defaults`` hold where a command has its own.

    Raises :class:`ConfigError`, which names the place of an unknown name or a bad value.
    """
    environ = os.environ if environ is None else environ
    file = file or config_file(environ)
    given = [(key, value, Sentence("setting.in_file", name=key, file=file)) for key, value in _read_toml(file).items()]
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX)
        if text and name != variable and name not in _OTHER_VARIABLES and not name.startswith(_OTHER_PREFIXES):
            place = Sentence("setting.from_variable", name=name.lower(), variable=variable)
            given.append((name.lower(), text, place))
    for key, value in (flags or {}).items():
        if value is not None:
            given.append((key, value, Sentence("setting.from_command", name=key)))
    values = dict(_checked(key, value, place) for key, value, place in given)
    return Settings(**cast("dict[str, Any]", {**(defaults or {}), **values}))


def with_cache(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the cache folder that the settings name, for rooms that read it there."""
    return {**environ, _PREFIX + "CACHE": settings.cache} if settings.cache else dict(environ)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            name="config", value=path, reason=Sentence("setting.unreadable", problem=type(error).__name__)
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(name="config", value=path, reason=Sentence("setting.not_toml", problem=str(error))) from error


def _checked(key: str, value: object, given: Sentence) -> tuple[str, object]:
    """Return a setting's real name and its value in the right type; ``given`` says where it was given."""
    name = key.replace("-", "_")
    known = specs() | {one.other_name: one for one in specs().values() if one.other_name}
    found = known.get(name)
    if found is None:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        reason = Sentence("setting.unknown_near", near=near[0]) if near else Sentence("setting.unknown")
        raise ConfigError(name=given, value=Sentence("value.used"), reason=reason)
    try:
        return found.name, _convert(found, value)
    except ValueError as error:
        shown = Sentence("value.given") if found.secret else repr(value)
        raise ConfigError(name=given, value=shown, reason=error.args[0]) from error


def _convert(found: SettingSpec, value: object) -> object:
    if found.kind == "texts":
        # As in PATH, where one variable holds several.
        several = value.split(found.separator) if isinstance(value, str) else value
        if not isinstance(several, (list, tuple)) or not all(isinstance(one, str) for one in several):
            raise ValueError("it must be text, or a list of texts")
        return tuple(one for one in several if one)
    if found.kind == "bool":
        return _to_bool(value)
    if found.kind == "text":
        if not isinstance(value, str):
            raise ValueError(Sentence("request.text"))
        if found.choices and value not in found.choices:
            raise ValueError(Sentence("use.choices", names=", ".join(found.choices[:-1]), last=found.choices[-1]))
        return value
    if found.kind == "int or auto" and value == AUTO:
        return AUTO
    return _to_number(found, value)


def _to_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(Sentence("use.true_or_false"))


def _to_number(found: SettingSpec, value: object) -> int | float:
    kind: Literal["int", "float"] = "float" if found.kind == "float" else "int"
    if isinstance(value, str):
        with suppress(ValueError):
            value = int(value) if kind == "int" else float(value)
    try:
        return check_number(value, kind, found.low, found.high)
    except ValueError as error:
        if found.kind != "int or auto":
            raise
        raise ValueError(Sentence("number.or_auto", number=error.args[0])) from error
