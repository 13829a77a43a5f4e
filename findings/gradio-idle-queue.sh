#!/bin/sh
# gradio 6.31.0, seen 2026-11-27.
# What one would expect: a page that nobody has open costs nothing; its queue waits for an event.
# What happens: on Linux and macOS the queue wakes a thousand times a second, for every mounted page, for ever (on Windows twenty
# times). Two mounted pages took 4 to 8 % of one core, beside other work.
# Seen: "an idle page looked for work 789 times in a second", and 726 (the figure changes; some hundreds is the finding)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check gradio==6.31.0
cat > "$folder/try.py" <<'PY'
import asyncio
import sys

import gradio as gr


async def main():
    with gr.Blocks(analytics_enabled=False) as page:
        box = gr.Textbox()
        box.submit(str, box, box)
    page.queue()
    queue, looked, sleep = page._queue, 0, asyncio.sleep

    async def count(seconds, *rest):
        nonlocal looked
        looked += 1
        await sleep(seconds, *rest)

    asyncio.sleep = count
    running = asyncio.ensure_future(queue.start_processing())
    await sleep(1)
    running.cancel()
    print(f"an idle page looked for work {looked} times in a second")
    return looked


looked = asyncio.run(main())
sys.exit(0 if sys.platform == "win32" or looked > 100 else 1)
PY
cd "$folder" && HOME="$folder" GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" try.py 2>/dev/null
