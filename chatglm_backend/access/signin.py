"""The page that asks for the token, and the cookie that remembers it. Holds nothing of the application."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from urllib.parse import parse_qs

from chatglm_backend.access.asgi import Headers
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.sentences import choose_language, load_texts

# The page's own colours, light and dark.
_STYLE = (
    ":root{color-scheme:light dark}"
    ":root{--back:#f3f2ed;--box:#fff;--ink:#1b2526;--quiet:#566160;--edge:#e6e4dc;--field:#8c9492;"
    "--go:#0f6e64;--on:#fff;--wrong:#84231a;--wrong-box:#fdf0ee}"
    "@media(prefers-color-scheme:dark){:root{--back:#10171a;--box:#182022;--ink:#e7ecea;--quiet:#a3b0ad;--edge:#2c383a;"
    "--field:#5d6b6d;--go:#79cabb;--on:#06211d;--wrong:#f7bdb4;--wrong-box:#331a17}}"
    "body{font:1rem/1.5 system-ui,-apple-system,'Segoe UI','PingFang SC','Microsoft YaHei',sans-serif;margin:0;"
    "padding:min(15vh,8rem) 1rem;background:var(--back);color:var(--ink)}"
    "main{max-width:22rem;margin:auto;padding:1.5rem;background:var(--box);border:1px solid var(--edge);"
    "border-radius:14px}h1{margin:0;font-size:1.3rem}p{color:var(--quiet);font-size:.9rem}"
    "label{display:block;margin:1rem 0 .3rem;font-weight:600}"
    "input,button{font:inherit;width:100%;box-sizing:border-box;min-height:44px;padding:.5rem .7rem;border-radius:10px}"
    "input{border:1px solid var(--field);background:var(--box);color:var(--ink)}"
    "button{margin-top:1.2rem;border:0;background:var(--go);color:var(--on);font-weight:600;cursor:pointer}"
    ":focus-visible{outline:2px solid var(--go);outline-offset:2px}"
    "[role=alert]{padding:.6rem .8rem;border-radius:10px;background:var(--wrong-box);color:var(--wrong)}"
)


class Credentials:
    """Compares what visitors bring, in constant time. A cookie is only good for this run of the program."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._policy = policy
        self.cookie_name = f"chatglm_access_{policy.port}"
        # Not the token itself: cookies are seen by every server on this host's other ports.
        self._cookie = hmac.new(secrets.token_bytes(32), b"access", hashlib.sha256).hexdigest()

    def cookie_right(self, headers: Headers) -> bool:
        """Whether the request carries the cookie."""
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        given = (value for name, _, value in cookies if name == self.cookie_name)
        return sum(_same(value, self._cookie) for value in given) > 0

    def secret_right(self, secret: str) -> bool:
        """Whether ``secret`` is the token, or ``user:password``."""
        return sum(_same(secret, wanted) for wanted in self._policy.secrets) > 0

    def header_right(self, authorization: str) -> bool:
        """Whether an ``Authorization`` header carries a Bearer key or a Basic login."""
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "bearer":
            return self.secret_right(value.strip())
        if kind.lower() == "basic" and self._policy.login is not None:
            try:
                given = base64.b64decode(value.strip(), validate=True).decode("utf-8")
            except (binascii.Error, UnicodeDecodeError):
                return False
            return _same(given, self._policy.login)
        return False

    def form_right(self, body: bytes) -> bool:
        """Whether the sign-in form was filled in with the token, or with user and password."""
        try:
            fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=8)
        except (UnicodeDecodeError, ValueError):
            return False
        if "token" in fields:
            return self.secret_right(fields["token"][0].strip())
        return self.secret_right(f"{fields.get('user', [''])[0]}:{fields.get('password', [''])[0]}")

    def set_cookie(self, path: str, *, https: bool) -> str:
        """The ``Set-Cookie`` header's value."""
        secure = "; Secure" if https else ""
        return f"{self.cookie_name}={self._cookie}; Path={path or '/'}; HttpOnly; SameSite=Lax{secure}"


def sign_in_page(policy: AccessPolicy, accept_language: str, *, wrong: bool = False) -> bytes:
    """The form as HTML, in the language that the browser asks for."""
    t = load_texts(choose_language(None, accept_language))
    if policy.token is not None:
        fields = _field("token", t("signin.token"), "password", "off")
    else:
        fields = _field("user", t("signin.user"), "text", "username") + _field(
            "password", t("signin.password"), "password", "current-password"
        )
    alert = f'<p role="alert">{t("signin.wrong")}</p>' if wrong else ""
    hint = f"<p>{t('signin.hint')}</p>" if policy.token is not None else ""
    return (
        f'<!doctype html><html lang="{t("app.language_tag")}"><head><meta charset="utf-8">'
        f"<title>{t('signin.title')}</title>"
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f'<body><main><h1>{t("signin.title")}</h1>{hint}{alert}<form method="post">{fields}'
        f'<button type="submit">{t("signin.title")}</button></form></main></body></html>'
    ).encode()


def _field(name: str, label: str, kind: str, complete: str) -> str:
    return (
        f'<label for="{name}">{label}</label>'
        f'<input id="{name}" name="{name}" type="{kind}" autocomplete="{complete}" required>'
    )


def _same(given: str, wanted: str) -> bool:
    # Hashed first: lengths then say nothing, and neither text must be ASCII.
    one, other = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, wanted))
    return hmac.compare_digest(one, other)
