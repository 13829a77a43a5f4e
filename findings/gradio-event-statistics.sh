#!/bin/sh
# gradio 6.31.0, seen 2026-11-28.
# What one would expect: where the page of statistics is switched off (enable_monitoring=False), none are made.
# What happens: after every event the queue makes a pandas table of all events so far (of the last 10,000) and sums it up,
# for a page that answers with an error. On a server that had seen 10,000 events it took 7 to 8 ms of a core for each further one.
# Seen: "25 events with monitoring off: 25 tables, the last with 25 rows"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gradio==6.31.0
cat > "$folder/try.py" <<'PY'
import sys

import gradio as gr
import pandas as pd
from gradio_client import Client

EVENTS, rows, plain = 25, [], pd.DataFrame


class Counted(plain):
    def __init__(self, data=None, *args, **kwargs):
        if isinstance(data, list) and data and "status" in data[0]:
            rows.append(len(data))
        super().__init__(data, *args, **kwargs)


with gr.Blocks(analytics_enabled=False) as page:
    box = gr.Textbox()
    box.submit(str, box, box, api_name="say")
_, url, _ = page.queue().launch(
    server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, enable_monitoring=False, ssr_mode=False
)
client = Client(url, verbose=False)
pd.DataFrame = Counted
for number in range(EVENTS):
    client.predict(str(number), api_name="/say")
pd.DataFrame = plain
page.close(verbose=False)
print(f"{EVENTS} events with monitoring off: {len(rows)} tables, the last with {rows[-1] if rows else 0} rows")
sys.exit(0 if len(rows) >= EVENTS - 1 and rows[-1] >= EVENTS - 1 else 1)
PY
cd "$folder" && HOME="$folder" GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 "$folder/venv/bin/python" try.py 2>/dev/null
