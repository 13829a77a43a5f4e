"""The guard in front of the application: who gets in, and what is refused to everyone."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from guarded import GRADIO, KEY, LOCAL, PRIVATE, TOKEN, application, ask, cookie_of

from chatglm_backend.access.guard import Guard
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.throttle import AttemptThrottle

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
