"""Access tokens, the links and pictures that carry them, and this machine's addresses. Sends no packets."""

from __future__ import annotations

import io
import ipaddress
import secrets
import socket
from urllib.parse import quote

_TOKEN_BYTES = 24
_VIRTUAL = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "flannel", "lxc", "tun", "tap")


def new_token() -> str:
    """A random token of 192 bits that needs no quoting in an address."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def sign_in_url(scheme: str, host: str, port: int, *, root_path: str = "", token: str | None = None) -> str:
    """The address that a visitor opens; with a token it signs them in."""
    name = f"[{host}]" if ":" in host else host
    shown_port = "" if port == {"http": 80, "https": 443}[scheme] else f":{port}"
    query = "" if token is None else f"?token={quote(token, safe='')}"
    return f"{scheme}://{name}{shown_port}{root_path}/{query}"


def lan_addresses(*, ipv6: bool = False) -> tuple[str, ...]:
    """This machine's addresses on its networks, real network cards first; loopback and link-local ones left out."""
    import psutil

    states = psutil.net_if_stats()
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    found: list[tuple[bool, str]] = []
    for card, addresses in psutil.net_if_addrs().items():
        if card in states and not states[card].isup:
            continue
        virtual = card.lower().startswith(_VIRTUAL)
        found += [(virtual, a.address) for a in addresses if a.family == family and _is_reachable(a.address)]
    return tuple(dict.fromkeys(address for _, address in sorted(found, key=lambda item: item[0])))


def qr_text(url: str) -> str:
    """A QR code in half-height blocks, for a terminal."""
    import segno

    out = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out, border=2, compact=True)
    return out.getvalue()


def qr_svg(url: str) -> str:
    """A QR code as an SVG element, dark on white, without a fixed size."""
    import segno

    svg: str = segno.make(url, error="l", micro=False).svg_inline(light="#fff", border=2, omitsize=True)
    return svg


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address without its zone, IPv4 as such where it is written as IPv6; ``None`` for anything else."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def visitor_network(address: str) -> str:
    """What counts as one visitor's address: one IPv6 network of 64 bits does, because one visitor has all of it."""
    ip = parse_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return address[:64] if ip is None else str(ip)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    ip = parse_address(host)
    return host == "localhost" or (ip is not None and ip.is_loopback)


def _is_reachable(address: str) -> bool:
    ip = parse_address(address)
    return ip is not None and not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)
