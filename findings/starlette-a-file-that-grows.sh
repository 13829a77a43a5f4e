#!/bin/sh
# Starlette 1.10.0 with uvicorn 0.54.0 and h11 0.16.0, seen 2026-11-28 with Python 3.11 on Linux.
# What one would expect: FileResponse of a file that somebody is appending to (a log, say) sends what it said it would: as
# many bytes as the file had when its size was taken.
# What happens: it says the size, then sends whatever the file holds by then. h11 sees more than was said, the connection is
# closed, and of a small file the client gets not one byte.
# Below: ten bytes that become eleven after the size was taken.
# Seen: said 10, got 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check starlette==1.10.0 uvicorn==0.54.0 h11==0.16.0
cat > "$folder/try.py" <<'PY'
import http.client
import pathlib
import socket
import threading
import time

import uvicorn
from starlette.responses import FileResponse

file = pathlib.Path(__file__).with_name("log")
file.write_bytes(b"x" * 10)


async def app(scope, receive, send):
    async def late(message):
        if message["type"] == "http.response.start":
            with file.open("ab") as more:
                more.write(b"y")
        await send(message)

    await FileResponse(file)(scope, receive, late)


listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="critical"))
threading.Thread(target=server.run, args=([listener],), daemon=True).start()
time.sleep(1)
client = http.client.HTTPConnection(*listener.getsockname(), timeout=10)
client.request("GET", "/")
reply = client.getresponse()
try:
    got = len(reply.read())
except http.client.IncompleteRead as error:
    got = len(error.partial)
print(f"said {reply.headers['content-length']}, got {got}")
PY
seen=$("$folder/venv/bin/python" "$folder/try.py")
echo "$seen"
[ "$seen" = "said 10, got 0" ]
