#!/bin/sh
# gradio 6.31.0, seen 2026-11-28.
# What one would expect: a visitor's session holds that visitor's values.
# What happens: it begins with a description of every component (for links to the page as it stands, also where no such link
# is offered), and the session of a closed page stays, description and all, until 10,000 others have come.
# Seen: "200 boxes and buttons: 409 KiB a session, 1,000 of 1,000 closed ones still held"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gradio==6.31.0
cat > "$folder/try.py" <<'PY'
import gc
import sys
import tracemalloc

import gradio as gr

with gr.Blocks(analytics_enabled=False) as page:
    for number in range(100):
        gr.Textbox(label=f"box {number}")
        gr.Button(f"button {number}")
holder = page.state_holder
holder["warm"]
tracemalloc.start()
before = tracemalloc.get_traced_memory()[0]
for number in range(20):
    holder[f"{number}"].is_closed = True
gc.collect()
each = (tracemalloc.get_traced_memory()[0] - before) // 20 // 1024
tracemalloc.stop()
for number in range(1000):
    holder[f"{number}"].is_closed = True
holder.delete_all_expired_state()
held = sum(f"{number}" in holder for number in range(1000))
print(f"200 boxes and buttons: {each} KiB a session, {held:,} of 1,000 closed ones still held")
sys.exit(0 if each > 100 and held == 1000 else 1)
PY
cd "$folder" && HOME="$folder" GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" try.py 2>/dev/null
