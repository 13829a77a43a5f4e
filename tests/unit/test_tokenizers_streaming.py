"""Streaming decode: the same text as sentencepiece gives for everything at once, and never half a sign."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm_backend.tokenizers.streaming import PieceTable, StreamingDecoder, from_whitespace_tags, to_whitespace_tags
from tests import tiny

IDS = st.lists(st.integers(0, 650), max_size=40)


@lru_cache(maxsize=4)
def processor(name: str) -> sentencepiece.SentencePieceProcessor:
    """Load a trained vocabulary, or a real one."""
    model = sentencepiece.SentencePieceProcessor()
    if name.endswith(".model"):
        model.LoadFromSerializedProto(Path(name).read_bytes())
    else:
        model.LoadFromSerializedProto(tiny.sentencepiece_model(first_family=name == "first"))
    return model


def streamed(model: sentencepiece.SentencePieceProcessor, ids: list[int], *, tags: bool) -> list[str]:
    """Return what each id, and then the end, gave."""
    decoder = StreamingDecoder(PieceTable(model), whitespace_tags=tags)
    return [*(decoder.add(i) for i in ids), decoder.finish()]


def whole(model: sentencepiece.SentencePieceProcessor, ids: list[int], *, tags: bool) -> str:
    """Return sentencepiece's own decoding, ids beyond the vocabulary dropped."""
    text = model.decode([i for i in ids if i < model.get_piece_size()])
    return from_whitespace_tags(text) if tags else text


def ids_of(model: sentencepiece.SentencePieceProcessor, *pieces: str) -> list[int]:
    """Return the ids of pieces by name."""
    found = [model.piece_to_id(piece) for piece in pieces]
    assert [model.id_to_piece(i) for i in found] == list(pieces)
    return found


@pytest.mark.parametrize("name", ["first", "second"])
@given(ids=IDS)
@settings(max_examples=300, deadline=None)
def test_streamed_text_is_the_whole_text(name: str, ids: list[int]) -> None:
    """Whatever ids come, the pieces concatenate to sentencepiece's own decoding."""
    model = processor(name)
    assert whole(model, ids, tags=name == "first") == "".join(streamed(model, ids, tags=name == "first"))


@pytest.mark.parametrize("name", ["first", "second"])
@given(data=st.lists(st.sampled_from([0x20, 0x41, 0x80, 0xBF, 0xC3, 0xE4, 0xED, 0xA0, 0xF0, 0x9F, 0xFF]), max_size=12))
@settings(max_examples=300, deadline=None)
def test_byte_pieces_follow_sentencepiece(name: str, data: list[int]) -> None:
    """Runs of byte pieces, broken ones too, give the same characters and the same replacement marks."""
    model = processor(name)
    ids = ids_of(model, *(f"<0x{byte:02X}>" for byte in data))
    ids = [*ids[:5], model.piece_to_id("a"), *ids[5:]]
    assert whole(model, ids, tags=False) == "".join(streamed(model, ids, tags=False))


@pytest.mark.parametrize(("folder", "file"), [("chatglm-6b", "ice_text.model"), ("chatglm2-6b", "tokenizer.model")])
def test_real_vocabularies(folder: str, file: str) -> None:
    """The real vocabularies stream what they decode, for random ids."""
    root = os.environ.get("CHATGLM_TEST_TOKENIZERS")
    if not root:
        pytest.skip("set CHATGLM_TEST_TOKENIZERS to a folder with the real tokenizers")
    model = processor(str(Path(root) / folder / file))
    top = model.get_piece_size() + 50
    near_bytes = model.piece_to_id("<0x00>")

    @given(
        ids=st.lists(st.one_of(st.integers(0, top), st.integers(near_bytes, near_bytes + 255), st.just(4)), max_size=60)
    )
    @settings(max_examples=300, deadline=None)
    def check(ids: list[int]) -> None:
        tags = file == "ice_text.model"
        assert whole(model, ids, tags=tags) == "".join(streamed(model, ids, tags=tags))

    check()


STREAMED = {
    "a character appears whole": ("<0xF0> <0x9F> <0x98> <0x80>", ["", "", "", "😀", ""]),
    "an answer cut inside a character says so at its end": ("<0xE4> <0xBD>", ["", "", "\ufffd\ufffd"]),
    "a tag in pieces never shows as half a tag": ("a <0x3C> n <0x3E> a", ["a", "", "", "\n", "a", ""]),
    "what only looked like a tag's start comes with what follows": ("<0x3C> n a", ["", "", "<na", ""]),
    "a tag that never closes comes at the end": ("<0x3C> n", ["", "", "<n"]),
}


@pytest.mark.parametrize(("pieces", "shown"), STREAMED.values(), ids=STREAMED)
def test_nothing_is_shown_half_and_nothing_is_lost(pieces: str, shown: list[str]) -> None:
    """Byte by byte, with the whitespace tags of ChatGLM-6B where there is one."""
    tags = "<0x3C>" in pieces
    model = processor("first" if tags else "second")
    assert streamed(model, ids_of(model, *pieces.split()), tags=tags) == shown


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_first_space_is_dropped(name: str) -> None:
    """The space that sentencepiece puts in front of every text does not come back."""
    model = processor(name)
    ids = model.encode("What is AI")
    assert "".join(streamed(model, ids, tags=False)) == "What is AI"


def test_ids_beyond_the_vocabulary_are_dropped() -> None:
    """Logits are wider than the vocabulary, so such ids happen; they give nothing."""
    model = processor("second")
    assert streamed(model, [model.get_piece_size(), -1], tags=False) == ["", "", ""]


def test_whitespace_tags_round_trip() -> None:
    """Runs of spaces, tabs and line breaks survive the spelling with tags."""
    text = "a  b\tc\n\n" + " " * 85 + "d e"
    assert text == from_whitespace_tags(to_whitespace_tags(text))
    assert to_whitespace_tags(" " * 85) == "<|blank_80|><|blank_5|>"
    assert to_whitespace_tags(" " * 81) == "<|blank_80|> "
    assert from_whitespace_tags("<|blank_81|><|blank_1|><|blank_02|>") == "<|blank_81|><|blank_1|><|blank_02|>"


def test_the_cost_does_not_grow_with_the_answer() -> None:
    """The decoder keeps no more than an unfinished sign, however long the answer is."""
    model = processor("first")
    decoder = StreamingDecoder(PieceTable(model), whitespace_tags=True)
    for piece in model.encode("What is AI? 你好") * 500:
        decoder.add(piece)
    held = sum(len(getattr(decoder, name)) for name in ("_bytes", "_held"))
    assert held < 16
