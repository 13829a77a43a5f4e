"""Who may change what everybody uses: load another model, delete one from the disk.

Knows addresses and headers, no components.
"""

from __future__ import annotations

from collections.abc import Mapping

from chatglm_backend.access.tokens import is_loopback

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def may_manage(address: str | None, headers: Mapping[str, str], *, shared: bool) -> bool:
    """Whether a visitor may load and delete models.

    On a page that only this machine reaches (not ``shared``) everybody may. On a shared one only a visitor
    at a loopback ``address`` whose request no proxy has passed on: a proxy on this machine has a loopback address too.
    """
    if not shared:
        return True
    return not any(name in headers for name in _FORWARDED) and is_loopback(address or "")
