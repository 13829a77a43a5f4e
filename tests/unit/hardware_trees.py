"""Recorded and built machines for the hardware and launcher tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path

TOPOLOGIES = Path(__file__).resolve().parents[1] / "golden" / "topologies"


def plant(name: str, root: Path) -> Path:
    """Write the recorded tree below ``root`` and return it."""
    for path, text in json.loads((TOPOLOGIES / f"{name}.json").read_text(encoding="utf-8")).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def core_record(mask: int, group: int = 0, efficiency: int = 0) -> bytes:
    """Return a RelationProcessorCore record of one group, as Windows documents it."""
    return struct.pack("<IIBB20xHQH6x", 0, 48, int(mask.bit_count() > 1), efficiency, 1, mask, group)


def package_record(*masks: int) -> bytes:
    """Return a RelationProcessorPackage record with one mask for each group."""
    groups = b"".join(struct.pack("<QH6x", mask, group) for group, mask in enumerate(masks) if mask)
    return struct.pack("<IIBB20xH", 3, 32 + len(groups), 0, 0, len(groups) // 16) + groups


def node_record(number: int, mask: int, group: int = 0) -> bytes:
    """Return a RelationNumaNode record; its group count is 0, as older Windows writes it."""
    return struct.pack("<III18xHQH6x", 1, 48, number, 0, mask, group)


def cache_record() -> bytes:
    """Return a record of a kind that the parser does not know."""
    return struct.pack("<II", 2, 52) + bytes(44)
