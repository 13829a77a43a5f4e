"""Documents beside a question: what is read of each kind of file, what is refused, and what a prompt holds of them."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import zipfile
from pathlib import Path

import docx
import pypdf
import pytest
from pydantic import ValidationError
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from chatglm_backend.api.answering import Answering
from chatglm_backend.api.files import File
from chatglm_backend.api.schemas import ChatRequest
from chatglm_backend.core import Message
from chatglm_backend.documents.extract import Unreadable, pages_of
from chatglm_backend.documents.passages import passages, ranked, words
from chatglm_backend.documents.prompt import Asked, place
from chatglm_backend.documents.reading import Document, DocumentReader
from chatglm_backend.errors import ContextLimitExceeded, DocumentRefused
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_service
from tests.unit.refusals import refused

CHINESE = "昨天下了一场大雨。\n今天天气很好。"


def pdf(*pages: str, locked: str = "") -> bytes:
    """A PDF with a line of ASCII on each page; a page of an empty text has nothing on it."""
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
         NameObject("/BaseFont"): NameObject("/Helvetica")}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(400, 200)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(content)
    if locked:
        writer.encrypt(locked, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def word() -> bytes:
    """A docx with a paragraph and a table."""
    made, file = docx.Document(), io.BytesIO()
    made.add_paragraph("第一段")
    table = made.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "name", "price"
    made.save(file)
    return file.getvalue()


def bomb() -> bytes:
    """A docx of few bytes that says that it unpacks to very many."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<a/>")
    data = bytearray(file.getvalue())
    place_of_size = data.rindex(b"PK\x01\x02") + 24
    data[place_of_size : place_of_size + 4] = (2**31).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
def test_a_text_is_read_in_its_encoding(encoding: str) -> None:
    """With a byte order mark or without."""
    text = CHINESE + "abc, ABC: 123." * 3
    assert pages_of(text.encode(encoding)) == ([text], False)


def test_pages_of_a_pdf_have_numbers_and_a_docx_has_its_tables() -> None:
    """By content, whatever the name."""
    assert pages_of(pdf("Rain fell.", "", "Sun shone.")) == (["Rain fell.", "", "Sun shone."], True)
    assert pages_of(word()) == (["第一段\nname | price"], False)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b" \n", "empty"),
        (pdf("hidden", locked="word"), "encrypted"),
        (pdf("", ""), "scanned"),
        (bomb(), "bomb"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "binary"),
        ("Ménage à côté, où l'été été.".encode("latin-1"), "binary"),
        (b"PK\x03\x04 rest", "damaged"),
        (b"%PDF-1.7 rest", "damaged"),
        (b"\xef\xbb\xbf torn \xe4\xbd", "damaged"),
        ("torn".encode("utf-16") + b"\0", "damaged"),
        ("torn".encode("utf-16-be") + b"\0", "damaged"),
        (b"\xd0\xcf\x11\xe0 rest", "old_office"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_told_by_what_is_wrong(data: bytes, problem: str) -> None:
    """Damage too is told by us, whatever a library raises."""
    with pytest.raises(Unreadable, match=f"^{problem}$"):
        pages_of(data)


def test_files_are_read_in_another_process(tmp_path: Path) -> None:
    """Names lose their folders and texts their control characters; problems come back as sentences."""
    reader = DocumentReader(100_000)
    assert reader.read("C:\\me\\a.txt", b"one\x07\r\ntwo") == Document("a.txt", ("one\ntwo",))
    with refused(DocumentRefused, "document.damaged"):
        reader.read("a.pdf", b"%PDF-1.7 rest")
    with pytest.raises(DocumentRefused):
        reader.read_file(tmp_path / "missing.txt")


def test_a_reader_has_limits() -> None:
    """Of size before anything is read, and of time."""
    with refused(DocumentRefused, "document.large", limit=1):
        DocumentReader(1 << 20).read("a.txt", bytes((1 << 20) + 1))
    with refused(DocumentRefused, "document.slow"):
        DocumentReader(100, seconds=0.0).read("a.txt", b"text")


def test_words_are_english_words_and_chinese_pairs() -> None:
    """Both in one text."""
    assert words("AI大模型, v2 Café") == ["ai", "大模", "模型", "v2", "café"]


def test_passages_that_have_to_do_with_the_question_come_first(caplog: pytest.LogCaptureFixture) -> None:
    """In Chinese and in English; words that are in no passage do not matter. Nothing is logged of it."""
    caplog.set_level("DEBUG")
    parts = passages([Document("a", ("昨天下了一场大雨。", "The price is five.", "今天天气很好。"), numbered=True)])
    assert [part.page for part in parts] == [1, 2, 3]
    assert ranked(parts, "今天的天气怎么样？")[0] == 2
    assert ranked(parts, "What is the price of zebras?")[0] == 1
    assert ranked(parts, "zebra") == [0, 1, 2]
    assert caplog.records == []


def _characters(turns: tuple[Message, ...]) -> int:
    return sum(len(turn.content) for turn in turns)


def test_a_document_that_fits_stands_whole_before_the_question() -> None:
    """So that two questions about it begin alike."""
    document = Document("r.pdf", ("one", "two"), numbered=True)
    first, second = (
        place([Asked(Message("user", text), (document,))], _characters, 1000, 100).messages[0].content
        for text in ("A?", "B?")
    )
    assert first == "[r.pdf, p. 1]\none\n\n[r.pdf, p. 2]\ntwo\n\nA?"
    assert second == first.replace("A?", "B?")


def test_of_one_that_does_not_fit_the_best_passages_are_taken_in_their_order() -> None:
    """As many as leave room for the answer; earlier turns stay."""
    pages = tuple(f"Filler {i} " + "x" * 80 for i in range(20))
    document = Document("r.pdf", (*pages[:12], "The red fox ran.", *pages[12:], "A fox slept."), numbered=True)
    asked = [
        Asked(Message("user", "Hello"), (document,)),
        Asked(Message("assistant", "Yes?")),
        Asked(Message("user", "What did the red fox do?")),
    ]
    placed = place(asked, _characters, 400, 100)
    assert {13, 22} <= {part.page for part in placed.passages}
    assert [part.page for part in placed.passages] == sorted(part.page or 0 for part in placed.passages)
    assert _characters(placed.messages) <= 300
    assert placed.count == 22
    assert [turn.content for turn in placed.messages[1:]] == ["Yes?", "What did the red fox do?"]
    with pytest.raises(ContextLimitExceeded):
        place(asked, _characters, 40, 10)


def _asked(*parts: object, role: str = "user") -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": role, "content": list(parts)}]})


def _file(**fields: str) -> dict[str, object]:
    return {"type": "file", "file": {"filename": "a.txt", **fields}}


def test_a_file_part_is_read_as_openai_has_it() -> None:
    """Beside text parts, whatever their order."""
    data = "data:text/plain;base64," + base64.b64encode(b"hello").decode()
    message = _asked({"type": "text", "text": "What?"}, _file(file_data=data)).messages[0]
    assert (message.content, message.files) == ("What?", (File("a.txt", data),))
    assert message.files[0].data() == b"hello"


def test_base64_is_decoded_in_pieces_and_only_when_it_is_read() -> None:
    """A request is checked before; whatever is no base64 is refused like a file that cannot be read."""
    content = bytes(range(256)) * 8192
    assert File("a", base64.b64encode(content).decode()).data() == content
    for coded in ("?", "QQ==QUJD", "QUJ", "é", "Q" * (1 << 20) + "Q"):
        message = _asked(_file(file_data=f"data:text/plain;base64,{coded}")).messages[0]
        with refused(DocumentRefused, "document.not_base64"):
            message.files[0].data()


@pytest.mark.parametrize(
    ("part", "role", "said"),
    [
        (_file(file_id="file-1"), "user", "file_id is not offered"),
        (_file(), "user", "must be texts"),
        (_file(file_data="aGk="), "assistant", "only messages of the user"),
    ],
)
def test_other_file_parts_are_refused_by_what_to_do(part: object, role: str, said: str) -> None:
    """One sentence each."""
    with pytest.raises(ValidationError, match=said):
        _asked(part, role=role)


class _Held(DocumentReader):
    """Reads nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.free = threading.Event()

    def read(self, name: str, data: bytes) -> Document:
        """See the reader."""
        assert self.free.wait(30)
        return Document(name, (data.decode(),))


def test_files_that_take_long_hold_nobody_else() -> None:
    """More of them than there are threads for everybody's requests: those go on, and each file is answered."""
    held, service = _Held(), scripted_service(ScriptedModel())
    answering = Answering(service, Settings(), held)

    async def ask() -> list[str]:
        body = _asked({"type": "text", "text": "What?"}, _file(file_data="aGk="))
        asked = [asyncio.create_task(answering.begin(body, f"v{number}", str(number))) for number in range(40)]
        await asyncio.wait_for(asyncio.to_thread(service.status), 20)
        assert not any(task.done() for task in asked)
        held.free.set()
        return [(await (await task).whole())["choices"][0]["finish_reason"] for task in asked]

    assert set(asyncio.run(ask())) == {"stop"}
    service.close()


def test_every_problem_has_its_sentence() -> None:
    """The codes cross from one process to the other as words."""
    codes = (
        "empty",
        "binary",
        "old_office",
        "encrypted",
        "scanned",
        "bomb",
        "long",
        "memory",
        "damaged",
        "library",
        "slow",
        "died",
    )
    assert all("(" not in str(Sentence(f"document.{code}"))[:20] for code in codes)
