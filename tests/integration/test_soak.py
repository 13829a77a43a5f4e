"""The soak test in short: the same clients, visits and account, on a small model and for seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.soak import Soak
from benchmarks.soaking.server import Server
from tests.tiny import build_checkpoint

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="clients bind loopback addresses of their own"),
]
pytest.importorskip("gradio")
TOKEN = "a-token-for-tests"  # noqa: S105
CONTEXT = 512


def test_sixteen_rude_clients_leave_nothing_behind(tmp_path: Path) -> None:
    """Nothing lost, mixed up, counted twice or left over; and both doors were used."""
    folder = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2", shards=1)
    data = tmp_path / "data"
    data.mkdir()
    with Server(data, TOKEN, ["--model", str(folder), "--threads", "1"]) as server:
        server.wait_ready()
        soak = Soak(server, clients=16, context=CONTEXT)
        soak.ask_alone(turns=2)
        seconds = soak.run(60, most=24)
        account = soak.account(seconds, None)
    assert account.failures == []
    assert {check: problems for check, problems in account.checks.items() if problems} == {}
    kinds = {record.kind.split()[0] for record in account.records}
    assert "page" in kinds
    assert len(kinds) >= 4
    assert len(account.records) > 20
    assert any(record.end in ("stop", "length") and len(record.text) > 20 for record in account.records)


def test_each_kind_of_visit_ends_as_it_should(tmp_path: Path) -> None:
    """One after the other on the bundled model, so that each happens for certain."""
    with Server(tmp_path, TOKEN, ["--threads", "1"]) as server:
        server.wait_ready()
        soak = Soak(server, clients=2, context=CONTEXT)
        soak.ask_alone(turns=3)
        ends = soak.one_of_each()
        account = soak.account(1.0, None)
    assert account.failures == []
    assert {check: problems for check, problems in account.checks.items() if problems} == {}
    told = {"stop", "length"}
    assert ends["streamed"] | ends["stalls"] | ends["page stalls"] <= told
    assert "context_length_exceeded" in ends["whole"] <= told | {"context_length_exceeded"}
    assert "told" in ends["page"] <= told | {"told"}
    assert ends["too large"] <= {"body_too_large", "left"}
    assert ends["burst"] <= told  # more at once than one visitor may run wait
    assert ends["page stops"] <= told | {"cancelled"}
    assert ends["page reloads"] <= told | {"left"}  # an answer may end just as its page goes
