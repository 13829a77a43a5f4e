"""Reads answers from a running page or endpoint, on orders from standard input; started by :mod:`.page_overhead`.

Order: ``{"page": 1, "number": 0, "prompt_tokens": 32, "new_tokens": 64}``; answer: ``{"seconds": …}``.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

from gradio_client import Client  # type: ignore[import-untyped]

from benchmarks.side_by_side.orders import serve


def read_endpoint(address: str, prompt: str, new_tokens: int) -> None:
    """Stream a completion to its end. Raises RuntimeError when it was cut short."""
    body = {"model": "m", "prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "stream": True}
    request = urllib.request.Request(  # noqa: S310 - always http to this machine
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    pieces = 0
    with urllib.request.urlopen(request) as stream:  # noqa: S310
        for line in stream:
            pieces += line.startswith(b"data: {")
    if pieces < new_tokens:
        raise RuntimeError(f"only {pieces} pieces came")


def read_page(client: Client, as_set: list[object], prompt: str, new_tokens: int) -> None:
    """Press Generate, the sampling as set, and follow the answer. Raises RuntimeError when it was cut short."""
    job = client.submit(prompt, new_tokens, "raw", *as_set, api_name="/generate")
    views = list(job)
    words = str(views[-1:]).count("word")
    if words < new_tokens:
        raise RuntimeError(f"only {words} words came")


def main(address: str) -> None:
    """Connect, say so, and serve orders until standard input ends."""
    client = Client(f"{address}/en/", verbose=False)
    known = client.view_api(return_format="dict")["named_endpoints"]["/generate"]["parameters"]
    as_set = [parameter.get("parameter_default") for parameter in known[3:]]

    def measure(page: int, number: int, prompt_tokens: int, new_tokens: int) -> dict[str, object]:
        prompt, began = f"{prompt_tokens}/{number}", time.perf_counter()
        if page:
            read_page(client, as_set, prompt, new_tokens)
        else:
            read_endpoint(address, prompt, new_tokens)
        return {"seconds": time.perf_counter() - began}

    serve(measure)


if __name__ == "__main__":
    main(sys.argv[1])
