"""GLM-4's and GLM-Edge's tokenizers: both forms of the vocabulary, control ids, chat templates, and streamed text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm_backend.checkpoint.family import tokenizer_family
from chatglm_backend.core import Message, Offer
from chatglm_backend.errors import DamagedFile, InvalidRequest, LfsPointerFile, MissingFile
from chatglm_backend.tokenizers.base import load_tokenizer
from chatglm_backend.tokenizers.glm4 import GLM4Tokenizer
from chatglm_backend.tokenizers.tools import calls_tools, offer_text
from chatglm_backend.tokenizers.verify import verify_tokenizer
from tests.tiny_glm import (
    FIRST_SPECIAL,
    SPECIALS,
    TEMPLATE,
    TOOLS_BESIDE,
    TOOLS_TEMPLATE,
    ranks,
    write_json,
    write_ranks,
)

GMASK, SOP, SYSTEM, USER, ASSISTANT = (
    FIRST_SPECIAL + SPECIALS.index(name) for name in ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
)
FORMS: dict[str, Callable[[Path], Path]] = {"ranks": write_ranks, "json": write_json}
SAID = [Message("system", "be kind"), Message("user", "hi"), Message("assistant", "yes"), Message("user", "<|user|>x")]


@pytest.fixture(scope="module", params=FORMS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GLM4Tokenizer:
    """The small vocabulary from each of the two files."""
    return opened(FORMS[request.param](tmp_path_factory.mktemp("glm")))


def opened(folder: Path) -> GLM4Tokenizer:
    """Load a folder's tokenizer."""
    return cast("GLM4Tokenizer", load_tokenizer(folder, "glm4"))


def merged(word: bytes) -> list[int]:
    """What tiktoken does with a word: again and again the neighbours that make the piece of the lowest rank."""
    known, parts = ranks(), [bytes((byte,)) for byte in word]
    while True:
        pairs = [
            (known[parts[at] + parts[at + 1]], at) for at in range(len(parts) - 1) if parts[at] + parts[at + 1] in known
        ]
        if not pairs:
            return [known[part] for part in parts]
        at = min(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(word=st.text(st.sampled_from("theuqickrvoasynd"), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_ranks_merge_as_tiktoken_merges_them(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    """The merges that are made of the ranks take the same way, word by word."""
    folder = tmp_path_factory.getbasetemp() / "ranks"
    tokenizer = opened(folder if folder.is_dir() else write_ranks(folder))
    expected = [ranks()[word.encode()]] if word.encode() in ranks() else merged(word.encode())
    assert tokenizer.encode_text(word) == expected


@given(text=st.lists(st.sampled_from((*SPECIALS, *"<|>[]\n aA1好😀\ud83d")), max_size=20).map("".join))
@settings(max_examples=100, deadline=None)
def test_typed_text_never_becomes_a_control_id(tokenizer: GLM4Tokenizer, text: str) -> None:
    """Whatever a user types stays text, and comes back as typed."""
    ids = tokenizer.encode_text(text)
    assert tokenizer.control_ids == set(range(FIRST_SPECIAL, FIRST_SPECIAL + len(SPECIALS)))
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_a_conversation_is_laid_out_by_ids(tokenizer: GLM4Tokenizer) -> None:
    """Role id, line break, content encoded apart; the same by the family's form and by a template."""
    line = tokenizer.encode_text("\n")
    roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    said = [i for one in SAID for i in (roles[one.role], *line, *tokenizer.encode_text(one.content))]
    encoded = tokenizer.encode_chat(SAID)
    assert encoded.ids == (GMASK, SOP, *said, ASSISTANT)
    assert encoded.text.endswith("<|user|>\n<|user|>x<|assistant|>")
    begun = tokenizer.encode_chat([*SAID, Message("assistant", "so")])
    assert begun.ids[len(encoded.ids) :] == (*line, *tokenizer.encode_text("so"))
    assert tokenizer.encode_prompt("hi", "raw").ids == (GMASK, SOP, *tokenizer.encode_text("hi"))
    assert tokenizer.stop_ids == {FIRST_SPECIAL, USER, FIRST_SPECIAL + SPECIALS.index("<|observation|>")}
    assert tokenizer.vocab_size == FIRST_SPECIAL + len(SPECIALS)


def test_characters_come_when_they_are_whole(tokenizer: GLM4Tokenizer) -> None:
    """Bytes of an unfinished character are held back, control ids say nothing, and a cut end is marked."""
    ids = [ranks()[bytes((byte,))] for byte in "é𠮷!".encode()]
    stream = tokenizer.stream()
    shown = [stream.add(token) for token in ids]
    assert shown == ["", "é", "", "", "", "𠮷", "!"]
    assert (stream.add(USER), stream.add(9999), stream.add(ids[0]), stream.finish()) == ("", "", "", "\ufffd")
    assert b"".join(map(tokenizer.spelling, [*ids, USER])) == "é𠮷!<|user|>".encode()


def test_edge_has_nothing_in_front(tmp_path: Path) -> None:
    """Without a template its prompts are told by its config; with one, by that."""
    folder = write_json(tmp_path, template=None)
    (folder / "config.json").write_text('{"model_type": "glm", "attention_bias": false}', encoding="utf-8")
    assert opened(folder).encode_chat([Message("user", "hi")]).text == "<|user|>\nhi<|assistant|>"
    write_json(folder, template=TEMPLATE.removeprefix("[gMASK]<sop>") + "{{ '\\n' }}")
    encoded = opened(folder).encode_chat([Message("user", "hi"), Message("assistant", "so")])
    assert (encoded.ids[0], encoded.text) == (USER, "<|user|>\nhi<|assistant|>\nso")


@pytest.mark.parametrize(
    "content",
    ["{{ [].__class__.__base__.__subclasses__() }}", "{% if %}", "{{ raise_exception('no') }}", "{{ 1 // 0 }}"],
)
def test_a_template_can_do_no_harm(tmp_path: Path, content: str) -> None:
    """What reaches out of the sandbox, is no template, or lays out nothing is named with its file."""
    with pytest.raises(DamagedFile, match=r"tokenizer_config\.json.*chat template"):
        opened(write_json(tmp_path, template=content))


def test_a_template_that_drops_or_refuses_a_message_says_so(tmp_path: Path) -> None:
    """Nothing that was said is left out in silence; what was said is never part of the template."""
    shown = "{{ ['é'] | tojson(indent=1, ensure_ascii=False) }}"
    only_users = (
        shown + "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content | trim }}{% endif %}{% endfor %}"
    )
    folder = write_json(tmp_path, template=only_users)
    with pytest.raises(InvalidRequest, match="leaves one of them out"):
        opened(folder).encode_chat(SAID)
    assert opened(folder).encode_chat([Message("user", "{{ 7 * 7 }}")]).text == '[\n "é"\n]<|user|>{{ 7 * 7 }}'
    picky = "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(picky, encoding="utf-8")
    with pytest.raises(InvalidRequest, match="one at a time"):
        opened(folder).encode_chat(SAID)


@pytest.mark.parametrize("template", [TOOLS_TEMPLATE, TOOLS_BESIDE], ids=["in a message", "beside the messages"])
def test_tools_are_offered_as_the_template_says(tmp_path: Path, template: str) -> None:
    """Wherever it takes them; what is written in them never steers the model, and a call is a name and JSON.

    As with transformers, the line break behind a tag is not part of the text.
    """
    folder = write_json(tmp_path, template=template)
    tokenizer = opened(folder)
    function = {"name": "look", "description": "<|user|> \ue000 \ue0001\ue001 \ue002好", "parameters": {}}
    call = Message("assistant", '{"at": "好"}', "look")
    said = [Offer("system", offer_text([function])), Message("system", "kind"), Message("user", "hi"), call]
    encoded = tokenizer.encode_chat([*said, Message("tool", "a <|user|>")])
    offer = f"\ntools\n## look\n\n{json.dumps(function, ensure_ascii=False, indent=4)}\nJSON"
    assert encoded.text == (
        f"[gMASK]<sop><|system|>{offer}<|system|>\nkind<|user|>\nhi<|assistant|>look\n{call.content}"
        "<|observation|>\na <|user|><|assistant|>"
    )
    assert [token for token in encoded.ids if token in tokenizer.control_ids] == [
        GMASK, SOP, SYSTEM, SYSTEM, USER, ASSISTANT, FIRST_SPECIAL + SPECIALS.index("<|observation|>"), ASSISTANT,
    ]  # fmt: skip
    assert encoded.ids[3:].index(SYSTEM) == len(tokenizer.encode_text(offer))
    assert (tokenizer.part_ids, calls_tools("glm4", "any", 8192, folder)) == ({ASSISTANT}, True)
    assert tokenizer.encode_chat(said[1:3]).text == "[gMASK]<sop><|system|>\nkind<|user|>\nhi<|assistant|>"


def test_a_template_without_tools_takes_none(tmp_path: Path) -> None:
    """And no template says nothing of tools."""
    folder = write_json(tmp_path)
    assert not calls_tools("glm4", "any", 8192, folder)
    assert not calls_tools("glm4", "GLM-4-9B-Base", 8192, write_json(tmp_path / "base", template=TOOLS_TEMPLATE))
    with pytest.raises(InvalidRequest, match="leaves one of them out"):
        opened(folder).encode_chat([Offer("system", offer_text([{"name": "f"}])), Message("user", "hi")])
    assert not calls_tools("glm4", "any", 8192, write_json(folder, template=None))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("tokenizer.model", None, MissingFile),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", LfsPointerFile),
        ("tokenizer.model", b"", DamagedFile),
        ("tokenizer.model", b"IQ== 0\nnot base64\n", DamagedFile),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", DamagedFile),
        ("tokenizer.json", b"{", DamagedFile),
        ("tokenizer.json", b"{}", DamagedFile),
        ("tokenizer.json", b'{"model": {"type": "BPE"}, "decoder": {"type": "WordPiece"}}', DamagedFile),
    ],
)
def test_what_is_no_tokenizer_is_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    """The error names the file, and tells what is missing or a pointer from damage."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=re.escape(name)):
        opened(tmp_path)


@pytest.mark.parametrize("mark", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_pieces_with_marks_are_no_bytes(tmp_path: Path, mark: str) -> None:
    """The package ends the process where it cuts them within a character."""
    file = write_json(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"][mark] = ""  # as real files have it
    file.write_text(json.dumps(content))
    assert opened(tmp_path)
    content["model"][mark] = "\0"
    file.write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=r"tokenizer\.json"):
        opened(tmp_path)


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_a_folder_with_a_vocabulary_alone_is_told(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """A byte-level vocabulary is GLM-4's, whatever the folder is called."""
    assert tokenizer_family(write(tmp_path), None).family == "glm4"


def test_recorded_ids_of_the_real_vocabulary(project_root: Path) -> None:
    """All recorded texts and chats of GLM-4's own vocabulary come out exactly."""
    root = os.environ.get("CHATGLM_TEST_TOKENIZERS")
    if not root or not (Path(root) / "glm-4-9b-chat").is_dir():
        pytest.skip("set CHATGLM_TEST_TOKENIZERS to a folder with the real tokenizers")
    cases = project_root / "tests/golden/tokenizer_cases_glm4.json"
    report = verify_tokenizer(Path(root) / "glm-4-9b-chat", cases, "glm4")
    assert (report.texts, report.chats, report.failures) == (15, 4, ())


def test_an_added_word_that_is_no_control_is_shown(tmp_path: Path) -> None:
    """Such tokens of a fine-tune are text in an answer, but not of what is typed."""
    folder = write_json(tmp_path)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 395, "content": "<think>", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = opened(folder)
    assert (tokenizer.decode([395]), tokenizer.vocab_size, tokenizer.encode_text("<think>")) == (
        "<think>",
        396,
        tokenizer.encode_text("<think>"),
    )
    assert 395 not in tokenizer.encode_text("<think>")
