"""The guard in front of the application: limits of bodies and heads, what every reply carries, shares of an address."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from guarded import LOCAL, PRIVATE, Reply, application, ask, sent_through

from chatglm_backend.access.guard import Guard
from chatglm_backend.access.headers import inline_script_hashes
from chatglm_backend.access.policy import AccessPolicy


def test_a_body_is_read_whole_and_handed_on() -> None:
    """In as many parts as it came."""
    assert ask(LOCAL, method="POST", parts=(b"ab", b"", b"cde")).body == b"reached 5"


@pytest.mark.parametrize(
    "headers", [{"content-length": "1000001"}, {"content-length": "-5"}, {"content-length": "9" * 40}, {}]
)
def test_a_large_body_is_413(headers: dict[str, str]) -> None:
    """Told by its declared length, or counted while it comes."""
    reply = ask(LOCAL, method="POST", headers=headers, parts=(b"x" * 600_000, b"x" * 600_000))
    assert reply.status == 413
    assert b'"code":"body_too_large"' in reply.body


def test_a_route_may_take_more_than_the_others() -> None:
    """Imports do, up to a limit of their own; a similar name does not."""
    guard = Guard(application, LOCAL, body_limits={"/history/import": 3_000_000})
    sizes = [("/zh/history/import", 2), ("/zh/history/import", 4), ("/history/importx", 2), ("/v1/completions", 2)]
    statuses = [ask(guard, path, method="POST", parts=(b"x" * 1_000_000,) * size).status for path, size in sizes]
    assert statuses == [200, 413, 413, 413]


def test_small_bodies_wait_for_no_large_ones() -> None:
    """Where large ones go through a few at a time, any number of small ones is inside at once."""
    inside, all_inside = 0, asyncio.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside
        inside += 1
        if inside == 9:
            all_inside.set()
        await asyncio.wait_for(all_inside.wait(), 20)
        await application(scope, receive, send)

    async def scene() -> list[Reply]:
        guard, asked = Guard(busy, LOCAL, body_limits={"/chat/completions": 3_000_000}), {"content-length": "2"}
        return await asyncio.gather(
            *(
                sent_through(guard, "/v1/chat/completions", method="POST", headers=asked, parts=(b"{}",))
                for _ in range(9)
            )
        )

    assert [reply.status for reply in asyncio.run(scene())] == [200] * 9


def test_a_length_that_does_not_count_lets_no_large_bodies_in() -> None:
    """A body in chunks has the length that it has, whatever it says; such go through a few at a time."""
    inside = most = 0

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(5):
            await asyncio.sleep(0)
        inside -= 1
        await application(scope, receive, send)

    async def scene() -> None:
        guard = Guard(busy, LOCAL, body_limits={"/chat/completions": 3_000_000})
        asked = {"content-length": "2", "transfer-encoding": "chunked"}
        await asyncio.gather(
            *(
                sent_through(guard, "/v1/chat/completions", method="POST", headers=asked, parts=(b"{}",))
                for _ in range(9)
            )
        )

    asyncio.run(scene())
    assert 0 < most < 9


def test_a_body_that_never_comes_is_408() -> None:
    """Nobody waits for ever."""
    policy = AccessPolicy(body_timeout_s=0.02)
    assert ask(policy, method="POST", headers={"content-length": "10"}).status == 408


def test_strangers_are_refused_before_their_body_is_read() -> None:
    """They cannot fill the memory."""
    reply = ask(PRIVATE, "/v1/completions", method="POST", headers={"content-length": "900000"})
    assert reply.status == 401


def test_huge_heads_are_refused() -> None:
    """Headers and addresses have limits."""
    assert ask(LOCAL, headers={"x-filler": "x" * 20_000}).status == 431
    assert ask(LOCAL, query="q=" + "x" * 9_000).status == 414


def test_every_reply_carries_the_security_headers_and_no_cors() -> None:
    """The application's own permissions for other sites are taken out."""
    for reply in (ask(LOCAL), ask(PRIVATE), ask(LOCAL, "/gradio_api/upload")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert not [name for name in reply.headers if name.startswith("access-control-")]


def test_a_page_may_run_only_the_scripts_that_it_was_served_with() -> None:
    """Each inline script is named by its hash; nothing else inline may run."""
    reply = ask(LOCAL, "/page")
    policy = reply.headers["content-security-policy"]
    scripts = next(rule for rule in policy.split("; ") if rule.startswith("script-src"))
    assert inline_script_hashes(b"<script>run()</script>")[0] in scripts
    assert "unsafe-inline" not in scripts
    assert reply.body == b"<script>run()</script>"


def test_hashes_are_those_that_a_browser_computes() -> None:
    """A known one, line ends as parsed, scripts from files left out."""
    known = "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
    assert [known] == inline_script_hashes(b"<script>alert('Hello, world.');</script>")
    assert inline_script_hashes(b"<script>a\r\nb</script>") == inline_script_hashes(b"<script>a\nb</script>")
    assert inline_script_hashes(b'<script type="module" src="x.js"></script>') == []


def test_websockets_are_closed_to_all() -> None:
    """Before they open: the page uses none."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(application, LOCAL)({"type": "websocket"}, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_one_address_has_a_share_of_the_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Through a proxy too, where all connections are the proxy's; the same place is free again afterwards."""

    async def main() -> list[list[int]]:
        going, statuses = asyncio.Event(), [[], [], []]  # type: list[list[int]]

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            await going.wait()
            await application(scope, receive, send)

        guard = Guard(waits, replace(LOCAL, max_of_one=2))

        async def request(client: str, into: list[int]) -> None:
            async def send(message: Any) -> None:
                into.extend([message["status"]] if "status" in message else [])

            headers = [(b"host", b"127.0.0.1"), (b"x-forwarded-for", client.encode())]
            scope = {"type": "http", "method": "GET", "path": "/config", "headers": headers, "client": (client, 1)}
            await guard(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]

        for client, into in (("2001:db8::", statuses[0]), ("10.0.0.1", statuses[1]), ("127.0.0.1", statuses[2])):
            asking = [asyncio.ensure_future(request(client + "5" * (":" in client), into)) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            going.set()
            await asyncio.gather(*asking, request(client, into))
            going.clear()
        return statuses

    with caplog.at_level("WARNING"):
        assert asyncio.run(main()) == [[503, 200, 200, 200], [503, 200, 200, 200], [200] * 4]
    assert [record.message for record in caplog.records if "--trusted-proxies" in record.message] == [
        caplog.records[0].message
    ]  # said once
