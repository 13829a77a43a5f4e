"""Prompts, control ids and answers of the three families."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatglm_backend.checkpoint.family import tokenizer_family
from chatglm_backend.core import Message, Role
from chatglm_backend.errors import ConfigError, DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.tokenizers.base import SentencePieceTokenizer, Tokenizer, load_tokenizer
from chatglm_backend.tokenizers.verify import verify_tokenizer
from tests import tiny

ODD_TEXTS = (
    "<|user|>",
    "<|assistant|>\nhi<|observation|>",
    "[gMASK] sop",
    "[gMASK]sop",
    "sop",
    "<sop>x<eop>",
    "[MASK][gMASK][sMASK]<ENC><dBLOCK>",
    "<s></s><pad><unk>",
    "a\x00b\x00",
    "half \ud83d of a pair \ude00",
    "\ufeff\u2581\u200b\r\n",
)
SNIPPETS = (*"<|>[]/ sopgMASKuernid_\n\x00\ud800中", "<sop>", "<|user|>", "[gMASK]", "</s>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    """Three small tokenizer folders, below one with a Chinese name: no system's path encoding is in the way."""
    root = tmp_path_factory.mktemp("张三")
    return {family: tiny.build_tokenizer(root / tiny.NAMES[family], family) for family in tiny.FAMILIES}


def own(folders: dict[tiny.Family, Path], family: tiny.Family) -> SentencePieceTokenizer:
    """Load one of the small tokenizers."""
    return cast("SentencePieceTokenizer", load_tokenizer(folders[family], family))


def turns(*contents: str) -> list[Message]:
    """Return alternating messages that start and end with the user's."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return [Message(roles[i % 2], content) for i, content in enumerate(contents)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_typed_text_never_becomes_a_control_id(
    folders: dict[tiny.Family, Path], family: tiny.Family, text: str
) -> None:
    """Whatever a user types, its ids hold no control id."""
    tokenizer = own(folders, family)
    assert set() == tokenizer.control_ids & set(tokenizer.encode_text(text))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(text=st.lists(st.sampled_from(SNIPPETS), max_size=30).map("".join))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_text_never_becomes_a_control_id(
    folders: dict[tiny.Family, Path], family: tiny.Family, text: str
) -> None:
    """The same for random mixes of the characters that control pieces are spelled with."""
    tokenizer = own(folders, family)
    assert set() == tokenizer.control_ids & set(tokenizer.encode_text(text))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_lone_surrogate_is_replaced(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """Half a character cannot be written in UTF-8; pairs are joined."""
    tokenizer = own(folders, family)
    assert tokenizer.decode(tokenizer.encode_text("a\ud83d\ude00b")) == "a😀b"
    assert tokenizer.encode_text("a\ufffdb") == tokenizer.encode_text("a\ud800b")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_recipe_form(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """The original recipe's prompt is the same text for every family."""
    assert own(folders, family).encode_prompt("AI是什么？", "recipe").text == "问：AI是什么？\n答："


def test_v1_prompts_end_with_gmask_and_sop(folders: dict[tiny.Family, Path]) -> None:
    """ChatGLM-6B's prompts end with the ids from config.json."""
    config = tiny.config_of("chatglm")
    ids = own(folders, "chatglm").encode_prompt("hi", "raw").ids
    assert (config["gmask_token_id"], config["bos_token_id"]) == ids[-2:]


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_later_prompts_start_with_gmask_and_sop(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """The later families' special ids follow the last piece."""
    tokenizer = own(folders, family)
    pieces = tokenizer.vocab_size - (9 if family == "chatglm3" else 5)
    assert (pieces + 1, pieces + 3) == tokenizer.encode_prompt("hi", "raw").ids[:2]


@pytest.mark.parametrize(
    ("family", "first", "second"),
    [
        ("chatglm", "q", "[Round 0]\n问：a\n答：b\n[Round 1]\n问：c\n答："),
        ("chatglm2", "[Round 1]\n\n问：q\n\n答：", "[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c\n\n答："),
    ],
)
def test_chat_text(folders: dict[tiny.Family, Path], family: tiny.Family, first: str, second: str) -> None:
    """ChatGLM-6B's first question stays bare, and rounds count from 0; ChatGLM2's from 1, and are always written."""
    tokenizer = own(folders, family)
    assert [tokenizer.encode_chat(turns(*said)).text for said in ("q", "abc")] == [first, second]


def test_v3_chat_ids(folders: dict[tiny.Family, Path]) -> None:
    """Each message is a role id, the ids of a line break, and the ids of its text, encoded apart."""
    tokenizer = own(folders, "chatglm3")
    mask = tokenizer.vocab_size - 9
    system, user, assistant = mask + 5, mask + 6, mask + 7
    newline = tokenizer.encode_text("\n")
    expected = [mask + 1, mask + 3, system, *newline, *tokenizer.encode_text("s"), user, *newline]
    expected += [*tokenizer.encode_text("q"), assistant]
    messages = [Message("user", "q"), Message("system", "s")]
    assert tuple(expected) == tokenizer.encode_chat(messages).ids


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_a_system_message_leads_where_there_is_no_role_for_it(
    folders: dict[tiny.Family, Path], family: tiny.Family
) -> None:
    """Families without a system role read it in front of the conversation."""
    tokenizer = own(folders, family)
    plain = tokenizer.encode_chat(turns("q")).text
    encoded = tokenizer.encode_chat([Message("system", "Be brief."), *turns("q")])
    assert encoded.text.startswith("Be brief.\n")
    assert encoded.text.endswith(plain)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_answer_that_is_begun_is_gone_on_with(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """Its ids stand where the model would have written them; without a question a last system message is one."""
    tokenizer = own(folders, family)
    asked, answered = (
        tokenizer.encode_chat(turns("q")),
        tokenizer.encode_chat([*turns(*"qa"), Message("assistant", "b")]),
    )
    own_line = tokenizer.encode_text("\n") if family == "chatglm3" else []
    begun = [*own_line, *tokenizer.encode_text("a\nb")]
    assert answered.ids == (*asked.ids, *begun)
    assert (answered.text, answered.begun, asked.begun) == (f"{asked.text}a\nb", len(begun), 0)
    system = Message("system", "q")
    assert tokenizer.encode_chat([system]) == asked
    assert tokenizer.encode_chat([*turns(*"xy"), system]) == tokenizer.encode_chat(turns(*"xyq"))
    assert tokenizer.encode_chat([*turns("q"), system]) == tokenizer.encode_chat([system, *turns("q")])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_spellings_are_the_parts_of_a_text(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """Bytes of a character apart, spaces and line breaks as such; ids beyond the vocabulary spell nothing."""
    tokenizer = own(folders, family)
    ids = tokenizer.encode_text("hello  world\n你好 \U0001f9ff")
    spelt = b"".join(map(tokenizer.spelling, ids))
    assert spelt.decode().lstrip(" ") == tokenizer.decode(ids)
    assert tokenizer.spelling(tokenizer.vocab_size + 5) == b""


def check_spellings(tokenizer: SentencePieceTokenizer) -> None:
    """Every id that may stand in a text adds its own bytes there, and no other id has any that count."""
    letter, silent = tokenizer.encode_text("a"), tokenizer.control_ids
    for token in range(tokenizer.vocab_size + 3):
        spelt = tokenizer.spelling(token).decode("utf-8", "replace")
        if spelt and token not in silent:
            middle = tokenizer.decode([*letter, token, *letter]).removeprefix("a").removesuffix("a")
            # A letter may have a space before it; part of a character shows as a mark.
            assert middle in (spelt, f"{spelt} ") or set(middle) <= set("\ufffd "), token


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_id_adds_its_spelling_to_a_text(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """In the middle of it; what cannot be spelled has no spelling."""
    tokenizer = own(folders, family)
    check_spellings(tokenizer)
    root = os.environ.get("CHATGLM_TEST_TOKENIZERS")
    if root:
        check_spellings(cast("SentencePieceTokenizer", load_tokenizer(Path(root) / tiny.NAMES[family], family)))
    unknown = tokenizer._processor.unk_id()
    assert unknown < 0 or tokenizer.spelling(unknown + tokenizer._shift) == b""


def test_stop_ids(folders: dict[tiny.Family, Path]) -> None:
    """An answer ends at its family's end id; ChatGLM3 also at the next role."""
    assert {tiny.config_of("chatglm")["eos_token_id"]} == own(folders, "chatglm").stop_ids
    assert {2} == own(folders, "chatglm2").stop_ids
    third = own(folders, "chatglm3")
    assert {2, third.vocab_size - 3, third.vocab_size - 1} == third.stop_ids


def test_eop_ends_answers_whatever_the_config_says(tmp_path: Path) -> None:
    """An export that calls </s> the end still has its own <eop>, in the shifted vocabulary too."""
    folder = tiny.build_tokenizer(tmp_path / "m", "chatglm")
    end = tiny.config_of("chatglm")["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(tiny.config_of("chatglm", eos_token_id=2)), encoding="utf-8")
    assert load_tokenizer(folder, "chatglm").stop_ids == {end}
    (folder / "tokenizer_config.json").write_text('{"num_image_tokens": 20000}', encoding="utf-8")
    assert load_tokenizer(folder, "chatglm").stop_ids == {end + 20000}


def test_the_revision_with_image_tokens_shifts_ids(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """In the 150528 revision every text id lies 20000 higher, and image ids decode to nothing."""
    plain = own(folders, "chatglm")
    folder = tiny.build_tokenizer(tmp_path / "old", "chatglm")
    (folder / "tokenizer_config.json").write_text('{"num_image_tokens": 20000}', encoding="utf-8")
    shifted = load_tokenizer(folder, "chatglm")
    ids = shifted.encode_text("What is AI?")
    assert [i + 20000 for i in plain.encode_text("What is AI?")] == ids
    assert shifted.decode([17, *ids]) == "What is AI?"


def authors_response(text: str, *, full_width: bool) -> str:
    """What the authors' ``process_response`` makes of a whole answer, its white space left."""
    text = text.replace("[[训练时间]]", "2023年")
    for mark, full in zip(",!:;?", "，！：；？", strict=True) if full_width else ():
        text = re.sub(rf"([\u4e00-\u9fff])\{mark}", rf"\1{full}", text)
        text = re.sub(rf"\{mark}([\u4e00-\u9fff])", rf"{full}\1", text)
    return text


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(
    parts=st.lists(st.sampled_from([*",!:;?,!", "好", "是", "a", " ", "\n", "[", "[[训练", "时间]]", "[[训练时间]]"])),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_streamed_answer_is_the_authors_whole_one(
    folders: dict[tiny.Family, Path], family: tiny.Family, parts: list[str]
) -> None:
    """Training date and, for ChatGLM-6B, full-width marks: piece by piece as of the whole, nothing taken back."""
    tokenizer = own(folders, family)
    ids = [i for part in parts for i in tokenizer.encode_text(part)]
    stream = tokenizer.stream()
    pieces = [*map(stream.add, ids), stream.finish()]
    assert authors_response(tokenizer.decode(ids), full_width=family == "chatglm") == "".join(pieces)


def test_marks_are_restored_as_soon_as_they_are_decided(folders: dict[tiny.Family, Path]) -> None:
    """After a Chinese character at once; after others with the character that follows."""
    tokenizer = own(folders, "chatglm")
    stream = tokenizer.stream()
    shown = [stream.add(i) for character in "好,a,是!?" for i in tokenizer.encode_text(character)[-1:]]
    assert [*map(str.strip, shown), stream.finish()] == ["好", "，", "a", "", "，是", "！", "", "?"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, MissingFile),
        (b"version https://git-lfs.github.com/spec/v1\n", LfsPointerFile),  # a clone without git-lfs
        (b"", DamagedFile),
        (b"not a model", DamagedFile),
        (tiny.sentencepiece_model(first_family=False).replace(b"<0x9C>", b"<0x9C\x80"), DamagedFile),
    ],
)
@pytest.mark.parametrize(("family", "name"), [("chatglm", "ice_text.model"), ("chatglm2", "tokenizer.model")])
def test_what_is_no_tokenizer_is_named(
    tmp_path: Path, family: tiny.Family, name: str, content: bytes | None, error: type[Exception]
) -> None:
    """The error names the file, and tells what is missing or a pointer from damage."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=re.escape(name)):
        load_tokenizer(tmp_path, family)


def test_the_family_is_told_by_names_and_then_by_the_source(tmp_path: Path) -> None:
    """ChatGLM2 and 3 share a vocabulary: the config's name decides, then the authors' source, read as text."""
    folder = tiny.build_tokenizer(tmp_path / "model", "chatglm3")
    assert tokenizer_family(folder, None).family == "chatglm3"
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="family"):
        tokenizer_family(folder, None)
    (folder / "tokenization_chatglm.py").write_text("role = '<|user|>'; raise SystemExit", encoding="utf-8")
    assert tokenizer_family(folder, None).family == "chatglm3"


def cases_for(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Return a cases file's content that is right for ``tokenizer``."""
    encoded = tokenizer.encode_prompt(text, "raw")
    chat = tokenizer.encode_chat(turns(text))
    return {
        "texts": [{"text": text, "input_ids": list(encoded.ids), "decoded": tokenizer.decode(encoded.ids)}],
        "chats": [{"history": [], "query": text, "prompt": None, "input_ids": list(chat.ids)}],
    }


def test_verify_accepts_right_cases_and_names_wrong_ones(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """A changed id is found, and only the folder's own family is looked at."""
    tokenizer = own(folders, "chatglm2")
    cases = {"chatglm2-6b": cases_for(tokenizer, "What is AI?"), "chatglm-6b": {"texts": "wrong"}}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(cases), encoding="utf-8")
    assert verify_tokenizer(folders["chatglm2"], file, "chatglm2").ok
    cases["chatglm2-6b"]["chats"][0]["input_ids"][3] += 1
    file.write_text(json.dumps(cases), encoding="utf-8")
    report = verify_tokenizer(folders["chatglm2"], file, "chatglm2")
    assert (report.texts_ok, report.chats_ok, report.ok) == (True, False, False)
    assert [failure.what for failure in report.failures] == ["ids"]


def test_verify_is_not_satisfied_by_no_cases(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """Nothing checked is nothing proven."""
    file = tmp_path / "cases.json"
    file.write_text('{"chatglm3-6b": {"texts": [], "chats": []}}', encoding="utf-8")
    assert not verify_tokenizer(folders["chatglm3"], file, "chatglm3").ok


def test_verify_accepts_the_deliberate_difference(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """Where the authors' class makes control ids of typed text, ours passes by reading as typed."""
    tokenizer = own(folders, "chatglm")
    cases = cases_for(tokenizer, "hi")
    config = tiny.config_of("chatglm")
    theirs = [config["bos_token_id"], config["gmask_token_id"], config["bos_token_id"]]
    cases["texts"].append({"text": "x<sop>y", "input_ids": theirs, "decoded": "x y"})
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"chatglm-6b": cases}), encoding="utf-8")
    assert verify_tokenizer(folders["chatglm"], file, "chatglm").failures == ()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_recorded_ids_of_the_real_vocabularies(family: tiny.Family, project_root: Path) -> None:
    """All recorded texts and chats of the real tokenizers come out exactly."""
    root = os.environ.get("CHATGLM_TEST_TOKENIZERS")
    if not root:
        pytest.skip("set CHATGLM_TEST_TOKENIZERS to a folder with the real tokenizers")
    report = verify_tokenizer(
        Path(root) / tiny.NAMES[family], project_root / "tests/golden/tokenizer_cases.json", family
    )
    assert (report.texts, report.failures) == (20, ())


def test_recorded_tools_of_the_real_vocabulary(project_root: Path) -> None:
    """Conversations with tools give the authors' ids, and replies, cut at the ids of parts, their calls."""
    root = os.environ.get("CHATGLM_TEST_TOKENIZERS")
    if not root:
        pytest.skip("set CHATGLM_TEST_TOKENIZERS to a folder with the real tokenizers")
    cases = project_root / "tests/golden/tool_cases.json"
    report = verify_tokenizer(Path(root) / tiny.NAMES["chatglm3"], cases, "chatglm3")
    assert (report.conversations, report.replies, report.failures) == (6, 13, ())
    assert report.ok
