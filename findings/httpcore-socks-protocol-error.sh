#!/bin/sh
# httpx 0.28.1 with httpcore 1.0.9 and socksio 1.0.0, seen 2026-11-27.
# What one would expect: whatever goes wrong between httpx and a proxy is an httpx.TransportError (httpx documents that
# everything raised for a request is an httpx.RequestError), so `except httpx.HTTPError` is enough around a request.
# What happens: a port that is given as socks5:// and speaks HTTP instead (a usual mix-up of two local proxy ports) makes
# socksio raise its own ProtocolError, which neither httpcore nor httpx maps: it passes every httpx except clause.
# Seen: "socksio.exceptions.ProtocolError False"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9 socksio==1.0.0
cat > "$folder/try.py" <<'PY'
import socket
import threading

import httpx

listener = socket.create_server(("127.0.0.1", 0))


def answer():
    taken, _ = listener.accept()
    with taken:
        taken.recv(100)
        taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


threading.Thread(target=answer, daemon=True).start()
try:
    proxy = f"socks5://127.0.0.1:{listener.getsockname()[1]}"
    httpx.Client(proxy=proxy, timeout=10, trust_env=False).get("http://example.invalid/")
    print("no error")
except Exception as error:
    kind = type(error)
    print(f"{kind.__module__}.{kind.__name__}", isinstance(error, (httpx.HTTPError, httpx.InvalidURL)))
PY
seen=$("$folder/venv/bin/python" "$folder/try.py")
echo "$seen"
[ "$seen" = "socksio.exceptions.ProtocolError False" ]
