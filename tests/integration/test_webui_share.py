"""The link and its QR code on the page: for whoever sits at the computer, and for nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from chatglm_backend.access.announce import share_links
from chatglm_backend.access.policy import AccessPolicy, policy_from
from chatglm_backend.settings import Settings
from tests.gradio_loop import in_loop

TOKEN = "a-token-for-tests"  # noqa: S105


def test_every_address_has_its_own_picture() -> None:
    """The likeliest first; none on a page that is not shared."""
    policy = policy_from(Settings(listen=True, token=TOKEN))
    links = share_links(policy, ("192.168.1.5", "10.0.0.5"))
    assert [url for url, _ in links] == [f"http://{a}:7860/?token={TOKEN}" for a in ("192.168.1.5", "10.0.0.5")]
    assert all(svg.startswith("<svg") for _, svg in links)
    assert links[0][1] != links[1][1]
    assert share_links(policy_from(Settings()), ("192.168.1.5",)) == ()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), False),
        (Settings(listen=True), True),
        (Settings(token=TOKEN), True),
        (Settings(allowed_hosts="glm.example.org"), True),
        (Settings(root_path="/chat"), True),
    ],
)
def test_a_page_that_others_may_reach_counts_as_shared(settings: Settings, expected: bool) -> None:
    """Over the network, with a token, or behind a proxy on this machine."""
    assert policy_from(settings).shared is expected


@pytest.fixture(scope="module")
def app() -> Any:
    """The real page, shared on all addresses; it is not bound to any."""
    pytest.importorskip("gradio")
    from chatglm_backend.testing import scripted_service
    from webui import create_app

    policy = AccessPolicy(bind_host="0.0.0.0", required=True, token=TOKEN, any_address=True)  # noqa: S104
    links = share_links(policy, ("192.168.1.5",))
    return in_loop(lambda: create_app(scripted_service(), Settings(history=False), policy, links=lambda: links))


@pytest.mark.parametrize(
    ("client", "headers", "shown"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("192.168.1.9", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "192.168.1.9"}, False),
    ],
)
def test_only_the_host_sees_link_and_code(app: Any, client: str, headers: dict[str, str], shown: bool) -> None:
    """A visitor who is signed in does not, nor does one whom a proxy on this machine passes on."""

    async def load() -> str:
        transport = httpx.ASGITransport(app=app, client=(client, 5))
        keys = {"authorization": f"Bearer {TOKEN}", **headers}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860", headers=keys) as visitor:
            config = (await visitor.get("/en/config")).json()
            element = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "cg-share")
            found = next(d for d in config["dependencies"] if d["outputs"] == [element])
            body = {"data": [], "fn_index": found["id"], "session_hash": f"session of {client}"}
            reply = await visitor.post("/en/gradio_api/run/predict", json=body)
            return json.dumps(reply.json()["data"][0])

    text = asyncio.run(asyncio.wait_for(load(), 30))
    assert ("<svg" in text and f"http://192.168.1.5:7860/?token={TOKEN}" in text) is shown
    assert (TOKEN in text) is shown
