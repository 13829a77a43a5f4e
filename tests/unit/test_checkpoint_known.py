"""The table of models: every row can be read, and its sizes are those of what is made."""

from __future__ import annotations

import pytest

from chatglm_backend.checkpoint.known import KNOWN, MODELS, hub_id_of, known_model, low_bit_bytes
from chatglm_backend.checkpoint.places import aliases
from chatglm_backend.sentences import LANGUAGES, load_texts


def test_every_row_has_a_name_of_its_own_and_a_use_in_every_language() -> None:
    """Short names are what people type."""
    assert len(MODELS) == len({row.name for row in KNOWN}) == len(KNOWN)
    assert all(load_texts(language).say(row.use) for row in KNOWN for language in LANGUAGES)


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.short)
def test_a_row_is_found_by_each_of_its_names(row: object) -> None:
    """Both owners on the hub, and the short name in any case; a name of nobody's stays what it is."""
    assert isinstance(row, type(KNOWN[0]))
    names = (row.short, row.short.upper(), row.name, *aliases(row.hub_id))
    assert {known_model(name) for name in names} == {row}
    assert {hub_id_of(row.short), hub_id_of(row.name), hub_id_of(row.hub_id)} == {row.hub_id}
    assert (hub_id_of("someone/" + row.short), known_model("chatglm")) == ("someone/" + row.short, None)


@pytest.mark.parametrize(
    ("name", "download", "low_bit"),
    [
        ("chatglm-6b", 13.4, 4.35),
        ("chatglm-6b-int4", 3.89, 4.35),
        ("chatglm-6b-int8", 6.71, 4.35),
        ("chatglm3-6b", 12.5, 3.71),
        ("chatglm2-6b-int4", 3.92, 3.71),
        ("glm-4-9b-chat", 18.8, 5.91),
        ("glm-edge-1.5b-chat", 2.94, 1.025),
    ],
)
def test_sizes_are_those_of_the_authors_files(name: str, download: float, low_bit: float) -> None:
    """In GB, as the hub and a conversion show them."""
    row = MODELS[name]
    assert row.download_bytes / 1e9 == pytest.approx(download, rel=0.005)
    assert low_bit_bytes(row.config) / 1e9 == pytest.approx(low_bit, rel=0.005)


def test_each_family_reads_its_own_row() -> None:
    """The long variants by their own rule of positions."""
    read = {name: row.config for name, row in MODELS.items()}
    assert (read["chatglm2-6b-32k"].rope_divisor, read["chatglm2-6b-32k"].rope_base) == (16, 10_000)
    assert (read["chatglm3-6b-128k"].rope_divisor, read["chatglm3-6b-128k"].rope_base) == (1, 5_000_000)
    assert {read[name].family for name in ("chatglm2-6b", "codegeex2-6b")} == {"chatglm2"}
