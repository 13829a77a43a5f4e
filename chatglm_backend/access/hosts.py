"""Which names a request may ask for, and from which pages it may come.

A foreign page can point its own name at this machine (DNS rebinding) or send requests to this
address from a visitor's browser; names and origins give both away. Knows no request bodies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.tokens import is_loopback, parse_address

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_allowed(policy: AccessPolicy, host: str) -> bool:
    """Whether the server answers to this ``Host`` header."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"].strip("[]").lower().rstrip(".")
    if name in policy.hosts or host.lower() in policy.hosts:
        return True
    return is_loopback(name) or (policy.any_address and parse_address(name) is not None)


def origin_allowed(policy: AccessPolicy, headers: Mapping[str, str], host: str) -> bool:
    """Whether a request comes from this server's own pages, from no page at all, or by a click on a link.

    Programs send neither ``Origin`` nor ``Sec-Fetch-Site``; browsers send the first with everything that changes
    something, and the second with the rest.
    """
    origin = headers.get("origin")
    if origin is not None:
        return _same_place(origin, host) or _named(policy, origin)
    site = headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return True
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _same_place(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    port = _DEFAULT_PORTS.get(parts.scheme)
    if port is None:
        return False
    return parts.netloc.lower().removesuffix(f":{port}") == host.lower().removesuffix(f":{port}")


def _named(policy: AccessPolicy, origin: str) -> bool:
    """A reverse proxy may ask for another name than the browser did; that one is in the settings."""
    parts = urlsplit(origin)
    return parts.scheme in _DEFAULT_PORTS and parts.netloc.lower() in policy.hosts - {"localhost", policy.bind_host}
