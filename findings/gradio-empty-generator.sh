#!/bin/sh
# gradio 6.31.0, seen 2026-11-27.
# What one would expect: an event whose handler is a generator that ends without yielding changes nothing on the page, as
# gr.skip() for every output does.
# What happens: the stream's last message says null for each of its outputs, and the page takes that for the new value: every
# output of the event is emptied, buttons lose their labels. A generator on page.load that finds nothing to do is enough.
# Below, over the page's own queue, with one output: what the last message says for a handler that skips, and for one that
# yields nothing.
# Seen: skips: [{"__type__": "update"}], yields nothing: [null]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gradio==6.31.0
cat > "$folder/try.py" <<'PY'
import json

import gradio as gr
import httpx


def skips():
    yield gr.skip()


def nothing():
    yield from ()


with gr.Blocks(analytics_enabled=False) as page:
    box = gr.Textbox("here before")
    gr.Button("a").click(skips, None, box)
    gr.Button("b").click(nothing, None, box)
_, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
base = url.rstrip("/") + "/gradio_api"


def last(number):
    body = {"data": [], "fn_index": number, "session_hash": f"s{number}"}
    httpx.post(f"{base}/queue/join", json=body, timeout=30).raise_for_status()
    with httpx.stream("GET", f"{base}/queue/data", params={"session_hash": f"s{number}"}, timeout=30) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return json.dumps(message["output"]["data"])


print(f"skips: {last(0)}, yields nothing: {last(1)}", flush=True)
page.close()
PY
seen=$(cd "$folder" && HOME="$folder" GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" try.py 2>/dev/null | grep skips)
echo "$seen"
[ "$seen" = 'skips: [{"__type__": "update"}], yields nothing: [null]' ]
