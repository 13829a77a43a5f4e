"""An HTTP client for downloads that goes the way the environment says, and names the variable that it cannot use.

httpx reads all of these variables when a client is made and gives up at the first it does not understand, needed
or not; this one looks at a variable when a request needs it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
from socksio import SOCKSError

from chatglm_backend.checkpoint.hub import HubAccess
from chatglm_backend.errors import UnusableVariable
from chatglm_backend.network import certificates_of, proxy_of


class Ways(httpx.BaseTransport):
    """Sends each request directly or through the proxy that its address asks for."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._open: dict[tuple[str, str | None], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it.

        Raises:
            UnusableVariable: if it needs a proxy or certificates that cannot be used.
        """
        try:
            return self.way(str(request.url)).handle_request(request)
        except SOCKSError as error:  # httpx lets it through: what listens there speaks no SOCKS
            raise httpx.ProxyError(str(error), request=request) from error

    def way(self, url: str) -> httpx.HTTPTransport:
        """The connections that requests to this address take."""
        found, scheme = proxy_of(self._env, url), urlsplit(url).scheme
        key = scheme, None if found is None else found[1]
        if key not in self._open:
            proxy = None if found is None else _proxy(*found)
            verify = _certificates(self._env) if scheme == "https" else False
            self._open[key] = httpx.HTTPTransport(verify=verify, proxy=proxy)
        return self._open[key]

    def close(self) -> None:
        """End all connections."""
        for way in self._open.values():
            way.close()


def check_way(access: HubAccess) -> None:
    """Look at what a download from there needs, without asking anybody.

    Raises:
        UnusableVariable: if it cannot be used.
    """
    if not access.endpoint.startswith(("http://", "https://")):
        raise UnusableVariable(name="HF_ENDPOINT", value=access.endpoint, example="https://huggingface.co")
    if access.token and not (access.token.isascii() and access.token.isprintable()):
        raise UnusableVariable(name="HF_TOKEN", value="…", example="hf_0123456789")
    ways = Ways(access.env)
    try:
        ways.way(access.endpoint)
    finally:
        ways.close()


def _proxy(name: str, value: str) -> httpx.Proxy:
    """``socks://`` is what desktops call a SOCKS 5 proxy, and one without a scheme is reached by http."""
    scheme, mark, rest = value.rpartition("://")
    try:
        return httpx.Proxy(f"{'socks5' if scheme == 'socks' else scheme or 'http'}://{rest}")
    except (ValueError, httpx.InvalidURL) as error:
        shown = f"{scheme}{mark}{rest.rpartition('@')[2]}"  # without a password
        raise UnusableVariable(name=name, value=shown, example="http://127.0.0.1:7890") from error


def _certificates(env: Mapping[str, str]) -> ssl.SSLContext:
    found = certificates_of(env)
    if found is None:
        return httpx.create_ssl_context(trust_env=False)
    name, place = found
    try:
        if name == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=place)
        next(place.iterdir(), None)
        return ssl.create_default_context(capath=place)
    except OSError as error:
        example = "/etc/ssl/certs/ca-certificates.crt" if name == "SSL_CERT_FILE" else "/etc/ssl/certs"
        raise UnusableVariable(name=name, value=str(place), example=example) from error
