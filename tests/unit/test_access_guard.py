"""The guard in front of the application: who gets in, and what is refused to everyone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from chatglm_backend.access.guard import Guard
from chatglm_backend.access.headers import inline_script_hashes
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.throttle import AttemptThrottle

TOKEN = "a-token-for-tests"  # noqa: S105
KEY = {"authorization": f"Bearer {TOKEN}"}
PRIVATE = AccessPolicy(bind_host="0.0.0.0", required=True, token=TOKEN, any_address=True)  # noqa: S104
LOCAL = AccessPolicy()
GRADIO = "/gradio_api/"
SECRET = (
    "/config", "/assets/index.js", "/theme.css", "/en/", "/zh/config", "/v1/models", "/v1/chat/completions", "/metrics",
    "/robots.txt", "/health/", "/readyx", f"{GRADIO}queue/join", f"{GRADIO}queue/data", f"{GRADIO}heartbeat/x",
    f"{GRADIO}cancel",
)  # fmt: skip
CLOSED = (
    "upload", "upload_progress", "file=/etc/passwd", "file/etc/passwd", "/upload", "component_server",
    "component_server/", "process_recording", "vibe-edit", "undo-vibe-edit/", "vibe-code", "vibe-starter-queries/",
    "stream/x/close", "custom_component/x", "runs", "run-history/records", "profiling/traces", "deep_link",
)  # fmt: skip
CLOSED_ELSEWHERE = (f"/en{GRADIO}upload", f"/zh{GRADIO}proxy=https://elsewhere", "/monitoring/summary", "/svelte/x")


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says that it was reached, and how large the body was."""
    size = 0
    if scope["method"] == "POST":
        message = await receive()
        size = len(message.get("body", b""))
    kind = b"text/html" if scope["path"] == "/page" else b"text/plain"
    body = b"<script>run()</script>" if scope["path"] == "/page" else f"reached {size}".encode()
    foreign = (b"access-control-allow-origin", b"http://elsewhere")
    weak = (b"content-security-policy", b"script-src 'unsafe-inline'")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), foreign, weak]})
    await send({"type": "http.response.body", "body": body})


def ask(guard: Guard | AccessPolicy, path: str = "/config", **how: Any) -> Reply:
    """Send one request through a guard."""
    return asyncio.run(sent_through(guard, path, **how))


async def sent_through(
    guard: Guard | AccessPolicy,
    path: str = "/config",
    *,
    method: str = "GET",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    parts: tuple[bytes, ...] = (),
    client: str = "192.168.1.9",
    root: str = "",
) -> Reply:
    """The reply to one request."""
    guard = guard if isinstance(guard, Guard) else Guard(application, guard)
    given = {"host": "127.0.0.1:7860", **(headers or {})}
    if parts and "content-length" not in given:
        given["transfer-encoding"] = "chunked"
    left = list(parts)
    sent: list[Any] = []

    async def receive() -> Any:
        if not left and sent:
            return {"type": "http.disconnect"}
        if not left:
            await asyncio.sleep(30)
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": root + path,
        "raw_path": (root + path).encode(),
        "root_path": root,
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in given.items() if v],
        "client": (client, 1),
        "scheme": "http",
    }
    await guard(scope, receive, send)
    if not sent:
        return Reply(0, {}, b"")
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))


def cookie_of(guard: Guard) -> dict[str, str]:
    """Sign in by the link and return the cookie's header."""
    line = ask(guard, "/", query=f"token={TOKEN}").headers["set-cookie"]
    return {"cookie": "other=1; " + line.split(";")[0]}


@pytest.mark.parametrize("path", SECRET)
def test_without_the_token_everything_is_401(path: str) -> None:
    """Static files and the queue are no exception."""
    reply = ask(PRIVATE, path)
    assert reply.status == 401
    assert b"reached" not in reply.body


def test_the_door_shows_a_form_and_nothing_of_the_application() -> None:
    """It is the sign-in page, in the browser's language."""
    reply = ask(PRIVATE, "/", headers={"accept-language": "zh-CN,zh;q=0.9"})
    assert reply.status == 200
    assert "访问令牌" in reply.body.decode()
    assert b"reached" not in reply.body
    assert b"<script" not in reply.body
    assert "set-cookie" not in reply.headers


def test_a_link_with_the_token_signs_in_and_leaves_a_clean_address() -> None:
    """The token is out of the address bar at once, the rest of the address stays."""
    guard = Guard(application, PRIVATE)
    reply = ask(guard, "/", query=f"token={TOKEN}&lang=zh")
    assert (reply.status, reply.headers["location"]) == (303, "/?lang=zh")
    line = reply.headers["set-cookie"]
    assert "HttpOnly" in line
    assert "SameSite=Lax" in line
    assert TOKEN not in line
    cookie = {"cookie": line.split(";")[0]}
    assert ask(guard, headers=cookie).body == b"reached 0"
    assert ask(PRIVATE, headers=cookie).status == 401  # each start of the program has its own


def test_under_a_root_path_redirect_and_cookie_stay_below_it() -> None:
    """A reverse proxy may show the page under a path."""
    reply = ask(PRIVATE, "/", query=f"token={TOKEN}", root="/chat")
    assert reply.headers["location"] == "/chat/"
    assert "Path=/chat;" in reply.headers["set-cookie"]
    assert ask(PRIVATE, "/health", root="/chat").status == 200
    assert ask(PRIVATE, "/config", root="/chat").status == 401


def test_the_form_signs_in() -> None:
    """Its POST is the one that needs no cookie."""
    guard = Guard(application, PRIVATE)
    origin = {"origin": "http://127.0.0.1:7860"}
    good = ask(guard, "/", method="POST", parts=(f"token={TOKEN}".encode(),), headers=origin)
    assert good.status == 303
    bad = ask(guard, "/", method="POST", parts=(b"token=wrong",), headers=origin)
    assert (bad.status, ask(guard, "/", query="token=wrong").status) == (401, 401)
    assert b'role="alert"' in bad.body


LOGIN = AccessPolicy(required=True, login="ada:secret")


def basic(login: bytes) -> str:
    """The header of user and password."""
    return f"Basic {base64.b64encode(login).decode()}"


@pytest.mark.parametrize(
    ("policy", "authorization", "expected"),
    [
        (PRIVATE, f"Bearer {TOKEN}", 200),
        (PRIVATE, f"bearer  {TOKEN} ", 200),
        *(
            (PRIVATE, wrong, 401)
            for wrong in ("Bearer wrong", "Bearer ", "Bearer \xff\xfe", TOKEN, basic(b"ada:secret"))
        ),
        (LOGIN, basic(b"ada:secret"), 200),
        (LOGIN, "Bearer ada:secret", 200),
        *((LOGIN, wrong, 401) for wrong in (basic(b"ada:wrong"), "Basic ?", "Basic //79")),
    ],
)
def test_the_key_is_the_token_or_the_login(policy: AccessPolicy, authorization: str, expected: int) -> None:
    """Nothing else is; user and password work as basic login and as the API's key as well."""
    reply = ask(policy, "/v1/models", headers={"authorization": authorization})
    assert reply.status == expected
    assert policy is PRIVATE or expected == 200 or reply.headers["www-authenticate"].startswith("Basic")


def test_user_and_password_work_in_the_form() -> None:
    """Passwords may hold any letters."""
    policy = AccessPolicy(required=True, login="ada:密码 1")
    body = b"user=ada&password=%E5%AF%86%E7%A0%81+1"
    assert ask(policy, "/", method="POST", parts=(body,)).status == 303
    assert ask(policy, "/", method="POST", parts=(b"user=ada&password=x",)).status == 401


def test_a_policy_without_any_secret_lets_nobody_in() -> None:
    """An empty key never equals a missing one."""
    policy = AccessPolicy(required=True)
    assert ask(policy, headers={"authorization": "Bearer "}).status == 401
    assert ask(policy, "/", query="token=").status == 401


WRONG = {"authorization": "Bearer guess"}


def test_many_wrong_tokens_lock_out_nobody_who_has_the_right_one() -> None:
    """Behind one address there may be many: whoever has a cookie, the link, the form's token or the key gets in."""
    guard = Guard(application, PRIVATE, AttemptThrottle(3, 60.0, clock=lambda: 0.0))
    cookie = cookie_of(guard)
    assert [ask(guard, headers=WRONG).status for _ in range(5)] == [401, 401, 401, 429, 429]
    assert ask(guard, "/", query="token=guess").status == 429
    assert [ask(guard, headers=right).status for right in (KEY, cookie)] == [200, 200]
    assert ask(guard, "/", query=f"token={TOKEN}").status == 303
    assert ask(guard, "/", method="POST", parts=(f"token={TOKEN}".encode(),)).status == 303


def test_a_short_secret_cannot_be_found_by_trying() -> None:
    """After some wrong ones it has to wait for its turn too; others and cookies do not."""
    now = [0.0]
    policy = replace(PRIVATE, token="short-1")  # noqa: S106
    guard = Guard(application, policy, AttemptThrottle(3, 60.0, clock=lambda: now[0]))
    key = {"authorization": "Bearer short-1"}
    cookie = {"cookie": ask(guard, "/", query="token=short-1").headers["set-cookie"].split(";")[0]}
    assert [ask(guard, headers=WRONG).status for _ in range(3)] == [401, 401, 401]
    late = ask(guard, headers=key)
    assert (late.status, late.headers["retry-after"]) == (429, "20")
    assert ask(guard, headers=cookie).status == 200
    assert ask(guard, headers=key, client="192.168.1.10").status == 200
    now[0] = 20.0
    assert ask(guard, headers=key).status == 200


def test_a_page_with_an_old_cookie_locks_nobody_out() -> None:
    """It asks many times; only secrets that were typed count as attempts."""
    throttle = AttemptThrottle(2)
    guard = Guard(application, PRIVATE, throttle)
    for _ in range(5):
        assert ask(guard, headers={"cookie": "chatglm_access_7860=old"}).status == 401
    assert len(throttle) == 0


OWN = ("127.0.0.1:7860", "localhost:1", "LOCALHOST", "[::1]:7860", "127.8.8.8")
FOREIGN = (
    "192.168.1.2:7860", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example",
    "localhost:7860@evil.example", "", "a b",
)  # fmt: skip


SHARED = AccessPolicy(bind_host="0.0.0.0", hosts=frozenset({"glm.lan"}), any_address=True)  # noqa: S104


@pytest.mark.parametrize(
    ("policy", "host", "expected"),
    [
        *((LOCAL, host, 200) for host in OWN),
        *((LOCAL, host, 421) for host in FOREIGN),
        *((SHARED, host, 200) for host in ("192.168.1.2:7860", "glm.lan:7860")),
        (SHARED, "other.lan", 421),
    ],
)
def test_only_own_names_are_answered_to(policy: AccessPolicy, host: str, expected: int) -> None:
    """A foreign name that points here (DNS rebinding) gets nothing; an address cannot be rebound."""
    assert ask(policy, headers={"host": host}).status == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "chrome-extension://abc"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_other_sites_can_neither_read_nor_change_anything(headers: dict[str, str], expected: int, method: str) -> None:
    """A link to the page works; everything else from another site is refused, preflights included."""
    assert ask(LOCAL, headers=headers, method=method, parts=(b"{}",) if method == "POST" else ()).status == expected


@pytest.mark.parametrize(
    ("path", "origin", "cookie", "expected"),
    [
        ("/v1/models", "http://localhost:3000", False, 401),
        ("/v1/models", "http://localhost:3000", True, 401),
        ("/v1/models", "http://localhost:30000", True, 403),
        ("/config", "http://localhost:3000", True, 403),
    ],
)
def test_a_web_app_gets_nothing_but_the_endpoint_by_key(path: str, origin: str, expected: int, *, cookie: bool) -> None:
    """Not even with the cookie of whoever has signed in at the page."""
    policy = replace(PRIVATE, origins=frozenset({"http://localhost:3000"}))
    guard = Guard(application, policy)
    link = ask(guard, "/", query=f"token={TOKEN}")
    headers = {"origin": origin, **({"cookie": link.headers["set-cookie"].split(";")[0]} if cookie else {})}
    assert ask(guard, path, headers=headers).status == expected
    if path == "/v1/models" and expected == 401:
        assert ask(guard, path, headers={**headers, **KEY}).headers["access-control-allow-origin"] == origin


def test_a_proxys_public_name_may_be_an_origin() -> None:
    """Where the proxy asks for this machine by another name than the browser did."""
    policy = AccessPolicy(hosts=frozenset({"glm.example.org", "localhost"}))
    for origin, expected in (
        ("https://glm.example.org", 200),
        ("https://localhost", 403),
        ("ftp://glm.example.org", 403),
    ):
        assert ask(policy, method="POST", headers={"origin": origin}, parts=(b"{}",)).status == expected


@pytest.mark.parametrize("path", [*(GRADIO + path for path in CLOSED), *CLOSED_ELSEWHERE])
def test_gradios_file_and_proxy_routes_are_closed_to_all(path: str) -> None:
    """Also where no token is asked for, and with one."""
    assert ask(LOCAL, path).status == 403
    assert ask(PRIVATE, path, headers=KEY).status == 403


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
