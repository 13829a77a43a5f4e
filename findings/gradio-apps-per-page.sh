#!/bin/sh
# gradio 6.31.0, seen 2026-11-27.
# What one would expect: a page that is built with gr.Blocks and mounted once makes one FastAPI application, when it is mounted.
# What happens: four are built and three thrown away: one as the `with` block begins, one as it ends, one by queue(), one by
# mount_gradio_app(). Each registers every route anew; together they are nearly all of what a page costs at start.
# Seen: "1 after entering, 2 after leaving, 3 after queue(), 4 after mounting"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gradio==6.31.0
cat > "$folder/try.py" <<'PY'
import fastapi
import gradio as gr
from gradio.routes import App

made = 0
before = fastapi.FastAPI.__init__


def count(self, *args, **kwargs):
    global made
    made += isinstance(self, App)
    before(self, *args, **kwargs)


fastapi.FastAPI.__init__ = count
app, said = fastapi.FastAPI(), []
page = gr.Blocks(analytics_enabled=False)
with page:
    said.append(f"{made} after entering")
    gr.Textbox()
said.append(f"{made} after leaving")
page.queue()
said.append(f"{made} after queue()")
gr.mount_gradio_app(app, page, path="/")
said.append(f"{made} after mounting")
print(", ".join(said))
PY
seen=$(cd "$folder" && HOME="$folder" GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" try.py 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "1 after entering, 2 after leaving, 3 after queue(), 4 after mounting" ]
