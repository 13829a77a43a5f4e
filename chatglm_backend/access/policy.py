"""What the settings say about access, decided once: where to listen, who gets in, under which names.

Knows no HTTP: :mod:`chatglm_backend.access.guard` applies it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from chatglm_backend.access.tokens import is_loopback, new_token, sign_in_url
from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  compared with, not listened on
_MIN_TOKEN = 8
_UNGUESSABLE = 16
MAX_OF_ONE = 256
"""Most connections of one address."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?|[a-z-]+-extension://[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who gets in. ``required`` without a credential lets nobody in.

    ``hosts`` are names (lower case, with a port or without) that this server answers to; ``any_address``
    lets it answer to any IP address, which no foreign name can be made to look like. ``origins`` are those of web apps
    elsewhere that may use the endpoint. ``proxied``: other names or a
    root path were given, so a reverse proxy is likely to stand before it. ``proxies`` are believed when they say whom
    they ask for. ``max_of_one``: most connections, and requests at once, of one address. Sizes are in bytes, times in
    seconds.
    """

    bind_host: str = "127.0.0.1"
    port: int = 7860
    required: bool = False
    token: str | None = field(default=None, repr=False)
    login: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset({"localhost"})
    any_address: bool = False
    origins: frozenset[str] = frozenset()
    https: bool = False
    root_path: str = ""
    insecure: bool = False
    proxied: bool = False
    proxies: tuple[Network, ...] = ()
    max_of_one: int = MAX_OF_ONE
    max_body: int = 1_000_000
    max_head: int = 16_384
    body_timeout_s: float = 30.0

    @property
    def listening(self) -> bool:
        """Whether other machines can reach the server."""
        return not is_loopback(self.bind_host)

    @property
    def shared(self) -> bool:
        """Whether others may use the server: over the network, or through a proxy on this machine."""
        return self.listening or self.required or self.proxied

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "https" if self.https else "http"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a Bearer key may be: the token, and ``user:password`` where that was chosen."""
        return tuple(secret for secret in (self.token, self.login) if secret)

    @property
    def unguessable(self) -> bool:
        """Whether nobody finds a secret by trying, however often."""
        parts = (self.token, self.login and self.login.partition(":")[2])
        return all(len(part) >= _UNGUESSABLE for part in parts if part)

    def url(self, host: str | None = None) -> str:
        """The address to open, with the token where there is one."""
        name = host or ("127.0.0.1" if self.bind_host in _EVERYWHERE else self.bind_host)
        return sign_in_url(self.scheme, name, self.port, root_path=self.root_path, token=self.token)


def policy_from(settings: Settings) -> AccessPolicy:
    """Decide from the settings; makes a random token where one is needed and none is given.

    Raises:
        ConfigError: for settings that contradict each other, a weak token, a TLS file that is missing.
    """
    bind = settings.host or ("0.0.0.0" if settings.listen or settings.insecure_listen else "127.0.0.1")  # noqa: S104
    shared = settings.listen or not is_loopback(bind)
    token, login = _checked_token(settings.token), _checked_login(settings.auth)
    if settings.insecure_listen and (settings.listen or token or login):
        raise ConfigError(
            name="insecure_listen", value=Sentence("value.with_access"), reason=Sentence("access.all_off")
        )
    required = not settings.insecure_listen and (shared or token is not None or login is not None)
    if required and token is None and login is None:
        token = new_token()
    return AccessPolicy(
        bind_host=bind,
        port=settings.port,
        required=required,
        token=token,
        login=login,
        hosts=_names(settings, bind, shared=shared or settings.insecure_listen),
        any_address=not is_loopback(bind),
        origins=frozenset(map(_checked_origin, settings.allow_origin)),
        https=_checked_tls(settings),
        root_path=_checked_root(settings.root_path),
        insecure=settings.insecure_listen,
        proxied=bool(settings.allowed_hosts.strip() or settings.root_path.strip("/ ")),
        proxies=tuple(map(_checked_proxy, settings.trusted_proxies)),
    )


def _names(settings: Settings, bind: str, *, shared: bool) -> frozenset[str]:
    names = {"localhost", bind.lower()}
    if shared:
        own = socket.gethostname().lower()
        names |= {own, f"{own}.local"}
    names |= {name.strip().lower() for name in settings.allowed_hosts.split(",")}
    if "*" in names:
        raise ConfigError(name="allowed_hosts", value="*", reason=Sentence("access.host_names"))
    return frozenset(name for name in names if name and name not in _EVERYWHERE)


def _checked_origin(origin: str) -> str:
    found = origin.strip().lower().removesuffix("/")
    if _ORIGIN.fullmatch(found) is None:
        raise ConfigError(name="allow_origin", value=origin, reason=Sentence("access.origin"))
    return found


def _checked_proxy(proxy: str) -> Network:
    try:
        return ipaddress.ip_network(proxy.strip())
    except ValueError as error:
        raise ConfigError(name="trusted_proxies", value=proxy, reason=Sentence("access.proxies")) from error


def _checked_token(token: str | None) -> str | None:
    if token is None:
        return None
    if len(token) < _MIN_TOKEN or not token.isascii() or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(
            name="token", value=Sentence("value.given"), reason=Sentence("access.token_length", count=_MIN_TOKEN)
        )
    return token


def _checked_login(login: str | None) -> str | None:
    if login is None:
        return None
    user, colon, password = login.partition(":")
    if not (user and colon and password) or any(ord(letter) < 32 for letter in login):
        raise ConfigError(name="auth", value=Sentence("value.given"), reason=Sentence("access.login"))
    return login


def _checked_tls(settings: Settings) -> bool:
    for name, path in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(name=name, value=path, reason=Sentence("file.absent"))
    if settings.tls_key is not None and settings.tls_cert is None:
        raise ConfigError(name="tls_key", value=Sentence("value.alone"), reason=Sentence("access.tls_cert"))
    return settings.tls_cert is not None


def _checked_root(path: str) -> str:
    path = path.strip().rstrip("/")
    if path and (not path.startswith("/") or path.startswith("//") or any(sign in path for sign in "?#\\ ")):
        raise ConfigError(name="root_path", value=path, reason=Sentence("access.root_path"))
    return path
