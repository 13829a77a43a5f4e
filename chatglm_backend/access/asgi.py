"""What the guard reads from a request, and the errors that it answers with. Knows no policy."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import Scope

Headers = dict[str, str]


def headers_of(scope: Scope) -> Headers:
    """Headers by lower-case name; repeated ones joined, cookies by semicolons."""
    found: Headers = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joint = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{joint}{value}" if name in found else value
    return found


def inner_path(scope: Scope) -> str:
    """The path below the root path under which a proxy shows the server."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return (path[len(root) :] if root and path.startswith(root) else path) or "/"


def client_address(scope: Scope) -> str:
    """Where a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else "local"


def admit(scope: Scope) -> None:
    """Tell the connection that its client is no stranger."""
    told = scope.get("state", {}).get("admit")
    if told is not None:
        told()


def error_reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)
