"""The environment of a program that stays local and quiet, and the way that its downloads take.

Standard library only. Knows nothing of the page.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

QUIET: dict[str, str] = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # also switches off Gradio's version check
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables that switch off reports to others and idle chatter."""

# huggingface_hub, which fetches nothing here, dies of a number that is none; kernels are nothing without a compiler.
_LEFT_OUT = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "NUMBA_DISABLE_JIT")
_PROXIES, _CERTIFICATES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy"), ("SSL_CERT_FILE", "SSL_CERT_DIR")
ROUTES = (*_PROXIES, *(name.upper() for name in _PROXIES), *_CERTIFICATES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that say how other machines are reached. HTTP clients read them when they are made, used or not."""


def quiet_environment(environ: MutableMapping[str, str]) -> None:
    """Switch off telemetry, and give a home to whoever has none. What the user has set himself stays."""
    for name, value in QUIET.items():
        environ.setdefault(name, value)
    environ["MPLBACKEND"] = "agg"  # pictures only ever go to files; matplotlib dies of a name that it does not know
    for name in _LEFT_OUT:
        environ.pop(name, None)
    give_home(environ)


def give_home(environ: MutableMapping[str, str]) -> None:
    """Let ``HOME`` be a folder of the program's where nobody knows it, as with a container's ``--user 12345``.

    Not in a folder that others can write to: compiled code is kept below it.
    """
    if sys.platform == "win32" or environ.get("HOME"):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environ["HOME"] = str(Path(__file__).resolve().parents[1] / ".home")


def proxy_of(env: Mapping[str, str], url: str) -> tuple[str, str] | None:
    """The variable whose proxy requests to this address go through, and its value; ``None`` for the direct way."""
    address = urlsplit(url)
    host = address.hostname or ""
    if _is_spared(host, env.get("no_proxy") or env.get("NO_PROXY", "")):
        return None
    for name in (f"{address.scheme}_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            if env.get(spelled, "").strip():
                return spelled, env[spelled].strip()
    return _system_proxy(address.scheme, host)


def certificates_of(env: Mapping[str, str]) -> tuple[str, Path] | None:
    """The variable that says whose certificates are trusted, and the file or folder in it."""
    return next(((name, Path(env[name])) for name in _CERTIFICATES if env.get(name)), None)


def _is_spared(host: str, no_proxy: str) -> bool:
    """Whether the list names the host, a domain or a network that it is in. This machine needs no proxy."""
    for entry in ("localhost", "127.0.0.0/8", "::1", *no_proxy.lower().split(",")):
        name = entry.strip().removeprefix("*.").lstrip(".").strip("[]")
        if name and (name == "*" or host == name or host.endswith(f".{name}") or _in_network(host, name)):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _system_proxy(scheme: str, host: str) -> tuple[str, str] | None:
    """What Windows' own settings say."""
    if sys.platform == "win32":
        from urllib.request import getproxies_registry, proxy_bypass_registry

        found = getproxies_registry().get(scheme)
        if found and not proxy_bypass_registry(host):
            return "the settings of Windows", str(found)
    return None
