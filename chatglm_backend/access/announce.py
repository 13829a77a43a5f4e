"""What to tell the person who starts the server: addresses to open, and who can get in. Prints nothing."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.tokens import lan_addresses, qr_svg, qr_text
from chatglm_backend.sentences import Sentence

_EVERYWHERE = {"0.0.0.0": False, "::": True}  # noqa: S104  compared with, not listened on


def shared_urls(policy: AccessPolicy, addresses: Sequence[str] | None = None) -> tuple[str, ...]:
    """The addresses that other machines can open, the likeliest first; none when only this machine is served."""
    if not policy.listening:
        return ()
    if policy.bind_host not in _EVERYWHERE:
        return (policy.url(),)
    found = lan_addresses(ipv6=_EVERYWHERE[policy.bind_host]) if addresses is None else addresses
    return tuple(policy.url(address) for address in found)


def share_links(policy: AccessPolicy, addresses: Sequence[str] | None = None) -> tuple[tuple[str, str], ...]:
    """The same with their QR codes as SVG elements, for the page."""
    return tuple((url, qr_svg(url)) for url in shared_urls(policy, addresses))


def announcement(policy: AccessPolicy, *, picture: bool, addresses: Sequence[str] | None = None) -> tuple[str, ...]:
    """Lines for the terminal; ``picture`` adds the first shared address as a QR code."""
    shared = shared_urls(policy, addresses)
    lines = [policy.url()]
    lines += [str(Sentence("announce.network", url=url)) for url in shared if url != lines[0]]
    if policy.login is not None:
        lines.append(str(Sentence("announce.login")))
    if policy.insecure:
        lines.append(str(Sentence("announce.insecure")))
    if picture and shared:
        lines.append(qr_text(shared[0]))
    return tuple(lines)
