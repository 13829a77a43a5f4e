"""What every family's tokenizer offers, and the parts that they share.

Text that a person typed goes through sentencepiece only, which never produces a control
piece; control ids are added by number. Knows no model and no tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import sentencepiece

from chatglm_backend.core import Message, PromptFormat
from chatglm_backend.errors import DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import is_lfs_pointer
from chatglm_backend.tokenizers.answers import AnswerDecoder
from chatglm_backend.tokenizers.streaming import Pieces, PieceTable, StreamingDecoder, from_whitespace_tags

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm4"]
FAMILIES: tuple[Family, ...] = ("chatglm", "chatglm2", "chatglm3", "glm4")
_MOST_ID = 1 << 22


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt ready for the model: its ``ids``, and ``text``, the exact prompt for people to read.

    The last ``begun`` ids are of the text that the answer goes on with, which so is no start of a text.
    """

    ids: tuple[int, ...]
    text: str
    begun: int = 0


class Tokenizer(Protocol):
    """Text to ids and back for one checkpoint folder."""

    @property
    def family(self) -> Family:
        """The family whose prompt formats are used."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""

    @property
    def part_ids(self) -> frozenset[int]:
        """Ids that begin a further part of an answer."""

    @property
    def control_ids(self) -> frozenset[int]:
        """Every id that steers the model and that no typed text may become."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that has a meaning; the model's logits may be wider."""

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of ``text`` as typed: never a control id, no prefix."""

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:
        """Return one prompt in the recipe's form, the family's chat form, or as typed."""

    def encode_chat(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Return a conversation in the family's chat form, open for the next answer or the rest of the last one."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` as it is; control ids and ids beyond the vocabulary give nothing."""

    def spelling(self, token_id: int) -> bytes:
        """Return what one id stands for, in UTF-8: perhaps part of a character; a control id's is its name.

        Nothing for the id of what the vocabulary cannot spell.
        """

    def stream(self) -> StreamingDecoder:
        """Return a decoder for an answer, as the authors' own chat shows it; it takes one id after the other."""


class FamilyTokenizer(ABC):
    """The parts that all families share: prompts, beginnings of answers, decoding."""

    family: Family
    stop_ids: frozenset[int]
    part_ids: frozenset[int] = frozenset()
    vocab_size: int

    def __init__(self, pieces: Pieces, *, shift: int = 0, whitespace_tags: bool = False) -> None:
        self._pieces = pieces
        self._shift = shift
        self._whitespace_tags = whitespace_tags

    @property
    @abstractmethod
    def control_ids(self) -> frozenset[int]:
        """Every id that steers the model and that no typed text may become."""

    @abstractmethod
    def _encode_asked(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Return a conversation that ends with a question, open for its answer."""

    def _answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer's beginning; encoded apart from its question, as the models were trained."""
        return self.encode_text(text)

    def encode_chat(self, messages: Sequence[Message]) -> EncodedPrompt:
        """See :class:`Tokenizer`."""
        asked, begun = asked_and_begun(messages)
        encoded, ids = self._encode_asked(asked), self._answer_ids(begun) if begun else []
        return EncodedPrompt((*encoded.ids, *ids), encoded.text + begun, len(ids))

    @abstractmethod
    def _with_control_ids(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Return the ids of a prompt's text with the family's fixed ids around them."""

    @abstractmethod
    def encode_text(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:
        """See :class:`Tokenizer`."""
        if prompt_format == "chat":
            return self.encode_chat([Message("user", prompt)])
        text = f"问：{prompt}\n答：" if prompt_format == "recipe" else prompt
        return self._encoded(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`Tokenizer`."""
        decoder = StreamingDecoder(self._pieces, shift=self._shift, whitespace_tags=self._whitespace_tags)
        return "".join([*map(decoder.add, ids), decoder.finish()])

    def spelling(self, token_id: int) -> bytes:
        """See :class:`Tokenizer`."""
        piece = token_id - self._shift
        if not 0 <= piece < self._pieces.size or self._pieces.is_unknown(piece):
            return b""
        spelled = self._pieces.byte(piece)
        if spelled is not None:
            return spelled
        text = self._pieces.text(piece).replace("\u2581", " ")
        return (from_whitespace_tags(text) if self._whitespace_tags else text).encode()

    def stream(self) -> StreamingDecoder:
        """See :class:`Tokenizer`."""
        first = self.family == "chatglm"
        return AnswerDecoder(self._pieces, shift=self._shift, whitespace_tags=self._whitespace_tags, full_width=first)

    def _encoded(self, text: str) -> EncodedPrompt:
        return EncodedPrompt(self._with_control_ids(self.encode_text(text)), text)


class SentencePieceTokenizer(FamilyTokenizer):
    """The parts that the families with a sentencepiece model share: loading, and encoding of typed text."""

    def __init__(self, model_file: Path, *, shift: int = 0, whitespace_tags: bool = False) -> None:
        self._processor = load_processor(model_file)
        super().__init__(PieceTable(self._processor), shift=shift, whitespace_tags=whitespace_tags)

    def encode_text(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""
        ids = self._processor.encode(self._prepare(without_lone_surrogates(text)))
        return [int(piece) + self._shift for piece in ids]

    def _prepare(self, text: str) -> str:
        return text


def load_tokenizer(folder: Path, family: Family) -> Tokenizer:
    """Read the tokenizer of a checkpoint folder.

    Raises :class:`MissingFile`, :class:`LfsPointerFile` or :class:`DamagedFile`.
    """
    from chatglm_backend.tokenizers.chatglm import ChatGLMTokenizer
    from chatglm_backend.tokenizers.chatglm2 import ChatGLM2Tokenizer
    from chatglm_backend.tokenizers.glm4 import GLM4Tokenizer

    if family == "glm4":
        return GLM4Tokenizer(folder)
    if family == "chatglm":
        return ChatGLMTokenizer(folder)
    return ChatGLM2Tokenizer(folder, family)


def load_processor(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Read a sentencepiece model through Python, so that any path works on any system."""
    if not path.is_file():
        raise MissingFile(path=str(path))
    if is_lfs_pointer(path):
        raise LfsPointerFile(path=str(path))
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError, ValueError) as error:  # its message may hold what is no text
        raise DamagedFile(path=str(path), reason=Sentence("file.not_sentencepiece")) from error
    if not loaded or processor.get_piece_size() == 0:
        raise DamagedFile(path=str(path), reason=Sentence("file.not_sentencepiece"))
    return processor


def int_field(config: dict[str, object], name: str, default: int, path: Path) -> int:
    """Return a whole number from a config, or ``default`` where the field is absent."""
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_ID:
        raise DamagedFile(path=str(path), reason=Sentence("file.not_whole", name=name))
    return value


def without_lone_surrogates(text: str) -> str:
    """Join surrogate pairs and replace halves with U+FFFD; neither exists in UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def asked_and_begun(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """Return (conversation up to the question, how its answer begins) of a conversation.

    Where no question of the user is open, a system message at the end is the question.
    """
    asked, begun = list(messages), ""
    while asked and asked[-1].role == "assistant":
        begun = asked.pop().content + (f"\n{begun}" if begun else "")
    turns = [message.role for message in asked if message.role != "system"]
    if asked and asked[-1].role == "system" and turns[-1:] in ([], ["assistant"]):
        asked[-1] = Message("user", asked[-1].content)
    return asked, begun


def system_first(messages: Sequence[Message]) -> list[Message]:
    """Put the system messages, joined, in front, for the families whose format has roles."""
    texts = [m.content for m in messages if m.role == "system" and m.content.strip()]
    others = [m for m in messages if m.role != "system"]
    return [Message("system", "\n".join(texts)), *others] if texts else others


def rounds_of(messages: Sequence[Message]) -> tuple[str, list[tuple[str, str]], str]:
    """Return (system text, finished rounds of question and answer, open question) of a conversation.

    For the families whose format knows rounds only: questions that follow each other are
    joined by a line break, and so are answers.
    """
    system = "\n".join(m.content for m in messages if m.role == "system" and m.content.strip())
    rounds: list[tuple[str, str]] = []
    questions: list[str] = []
    answers: list[str] = []
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "user" and answers:
            rounds.append(("\n".join(questions), "\n".join(answers)))
            questions, answers = [], []
        (questions if message.role == "user" else answers).append(message.content)
    if answers:
        rounds.append(("\n".join(questions), "\n".join(answers)))
        questions = []
    return system, rounds, "\n".join(questions)
