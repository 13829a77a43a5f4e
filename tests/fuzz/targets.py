"""Every format that is read: a small file of it, how to change it, and how the program reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.core import KeptAs, Message
from chatglm_backend.errors import ChatGLMError
from tests.fuzz import mutate
from tests.fuzz.mutate import Mutator

Read = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """``files`` are changed, one at a time; ``read`` opens all that lies there.

    ``checked``: what is read must be what was written, or nothing. ``refuses``: what may be raised.
    """

    files: dict[Path, Mutator]
    read: Read
    checked: bool = False
    refuses: tuple[type[BaseException], ...] = (ChatGLMError,)


def _folder(root: Path, family: str, form: str) -> Path:
    from tests.tiny import build_checkpoint

    return build_checkpoint(root / f"{family}-6b", family, form=form, shards=2)  # type: ignore[arg-type]


def _values(file: Path) -> object:
    from chatglm_backend.checkpoint.tensors import open_file

    return [
        (one.name, one.shape, one.rows().float().sum().item()) for one in open_file(file) if one.dtype.is_floating_point
    ]


def safetensors(root: Path) -> Target:
    """Weights as safetensors."""
    file = next(_folder(root, "chatglm2", "safetensors").glob("*.safetensors"))
    return Target({file: mutate.safetensors}, lambda: _values(file))


def pickles(root: Path) -> Target:
    """Weights as PyTorch writes them: an archive with a pickle."""
    import torch

    file = root / "pytorch_model.bin"
    torch.save({"a": torch.ones(8, 64).half(), "b": torch.ones(64)}, file)
    return Target({file: mutate.archive}, lambda: _values(file))


def old_pickles(root: Path) -> Target:
    """The same from before PyTorch 1.6: pickles one behind the other."""
    import torch

    file = root / "pytorch_model.bin"
    torch.save({"a": torch.ones(8, 64).half(), "b": torch.ones(64)}, file, _use_new_zipfile_serialization=False)
    return Target({file: mutate.raw}, lambda: _values(file))


def folder(root: Path) -> Target:
    """A checkpoint's config and index, up to the plan of its conversion."""
    from chatglm_backend.checkpoint.plan import make_plan
    from chatglm_backend.checkpoint.source import inspect_folder

    place = _folder(root, "chatglm3", "safetensors")
    files = dict.fromkeys((place / "config.json", next(place.glob("*.index.json"))), mutate.as_json)
    return Target(files, lambda: make_plan(inspect_folder(place)).nbytes)  # type: ignore[arg-type]


def _speaks(place: Path, family: str) -> object:
    from chatglm_backend.tokenizers.base import load_tokenizer

    tokenizer = load_tokenizer(place, family)  # type: ignore[arg-type]
    ids = tokenizer.encode_chat([Message("system", "s"), Message("user", "你好 x")]).ids
    return tokenizer.decode(ids), ids


def sentencepiece(root: Path) -> Target:
    """The vocabulary of ChatGLM to ChatGLM3 and its config."""
    place = _folder(root, "chatglm3", "safetensors")
    files: dict[Path, Mutator] = {
        place / "tokenizer.model": mutate.raw,
        place / "tokenizer_config.json": mutate.as_json,
    }
    return Target(files, lambda: _speaks(place, "chatglm3"))


def tiktoken(root: Path) -> Target:
    """GLM-4's vocabulary as its authors keep it."""
    from tests.tiny_glm import write_ranks

    place = write_ranks(root / "glm")
    return Target({place / "tokenizer.model": mutate.lines}, lambda: _speaks(place, "glm4"))


def tokenizers(root: Path) -> Target:
    """The same as transformers keeps it, with its chat template."""
    from tests.tiny_glm import write_json

    place = write_json(root / "glm")
    files = dict.fromkeys(sorted(place.glob("*.json")), mutate.as_json)
    return Target(files, lambda: _speaks(place, "glm4"))  # type: ignore[arg-type]


def low_bit(root: Path) -> Target:
    """A low-bit folder and a kernel's layout in it."""
    from chatglm_backend.checkpoint.convert import convert
    from chatglm_backend.checkpoint.lowbit import open_low_bit
    from chatglm_backend.checkpoint.source import inspect_folder
    from chatglm_backend.checkpoint.sums import tensor_sums
    from tests.unit.checkpoint_helpers import quantize

    place = convert(inspect_folder(_folder(root, "chatglm2", "bin")), root / "low", quantize=quantize)
    made = open_low_bit(place)
    specs = {name: (made.get(name).dtype, tuple(made.get(name).shape)) for name in list(made.names())[:3]}
    made.layouts.publish("tag", specs, lambda name: [made.get(name)])

    def read() -> object:
        opened = open_low_bit(place)
        opened.check(opened.names())
        layout = opened.layouts.find("tag")
        return tensor_sums(opened._tensors), tensor_sums(layout) if layout else None

    files = {file: _by_name(file) for file in sorted(place.rglob("*")) if file.is_file() and file.name != ".lock"}
    return Target(files, read, checked=True)


def _by_name(file: Path) -> Mutator:
    return {".json": mutate.as_json, ".safetensors": mutate.safetensors}.get(file.suffix, mutate.raw)


def kernels(root: Path) -> Target:
    """Compiled kernels."""
    from chatglm_backend.int4.kernels.objects import ObjectCode, keep_object, kept_object

    keep_object(root, "name", "key", ObjectCode(("one", "two"), bytes(range(256)) * 8))
    (file,) = root.iterdir()
    return Target({file: mutate.raw}, lambda: kept_object(root, "name", "key"), checked=True)


def kv(root: Path) -> Target:
    """What was read of a conversation."""
    from chatglm_backend.store.kv_blocks import Binding, KVBlocks

    blocks, ids, binding = (
        KVBlocks(root, max_bytes=1 << 30),
        tuple(range(100)),
        Binding(KeptAs("ada", "one"), "weights"),
    )
    blocks.write(binding, ids, 4, lambda start, end: b"abcd" * (end - start))
    files = {file: mutate.raw for file in root.rglob("*") if file.is_file()}

    def read() -> object:
        found = [blocks.read(binding, index, ids, 4) for index in range(2)]
        return None if any(count == 0 for count, _ in found) else found

    return Target(files, read, checked=True)  # type: ignore[arg-type]


def history(root: Path) -> Target:
    """The file with the conversations."""
    from chatglm_backend.store.conversations import ConversationStore

    file = root / "history.sqlite3"
    store = ConversationStore(file)
    for number in range(3):
        opened = store.begin("ada", None, (Message("user", f"question {number}"),))
        store.save_answer(opened, f"答案 {number}", "complete", {"ttft_s": 0.5})
    store.delete_all("nobody")
    store.close()
    whole = {f"question {number}": f"答案 {number}" for number in range(3)}

    def read() -> object:
        for left in root.glob("history.sqlite3[-.]*"):
            left.unlink()
        empty = file.stat().st_size < 2  # which sqlite takes for a new file, and nobody can tell from one
        opened = ConversationStore(file)
        try:
            listed = opened.list("ada")
            assert len(listed) == 3 or opened.take_notice() or empty, listed
            for one in listed:
                try:
                    said = [message.content for message in opened.read("ada", one.id).messages]
                except ChatGLMError:
                    continue
                assert len(said) == 2, said
                assert whole.get(said[0]) == said[1], said
        finally:
            opened.close()
        return None

    return Target({file: mutate.raw}, read, checked=True)


def export(root: Path) -> Target:
    """Conversations as a file of the exchange format."""
    from chatglm_backend.store.records import Conversation, StoredMessage
    from chatglm_backend.store.transfer import from_json, to_json

    turns = (StoredMessage("user", "hello", created=1.0), StoredMessage("assistant", "你好", timing={"ttft_s": 0.5}))
    file = root / "conversations.json"
    file.write_text(to_json((Conversation("id", "title", 1.0, 2.0, 0, turns),)), encoding="utf-8")
    return Target({file: mutate.as_json}, lambda: from_json(file.read_bytes()))


def batch(root: Path) -> Target:
    """A batch's input in each of its kinds."""
    from chatglm_backend.batch.inputs import read_lines

    asked = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}} for n in range(3)
    ]
    files: dict[Path, tuple[str, bytes]] = {
        root / "in.jsonl": ("", "\n".join(map(json.dumps, asked)).encode()),
        root / "in.csv": ("ask {a} and {b}", b'a,b\n1,"2\n3"\nx,y\n'),
        root / "in.txt": ("ask {text}", b"one\ntwo\n"),
    }
    for file, (_, data) in files.items():
        file.write_bytes(data)

    def read() -> object:
        return [read_lines(file, template) for file, (template, _) in files.items()]

    return Target(dict.fromkeys(files, mutate.lines), read)


def journal(root: Path) -> Target:
    """A batch's output, which is read when it goes on."""
    from chatglm_backend.batch.journal import Journal

    file = root / "out.jsonl"
    body = {"usage": {"completion_tokens": 3}, "choices": []}
    with Journal(file) as made:
        for number in range(3):
            answer = {"status_code": 200, "body": body}
            made.add({"id": f"batch_req_{number}", "custom_id": str(number), "response": answer, "error": None})

    def read() -> object:
        with Journal(file) as opened:
            return opened.entries

    return Target({file: mutate.lines}, read)


def lora(root: Path) -> Target:
    """A LoRA adapter in PEFT's form, of the references."""
    import shutil

    from chatglm_backend.adapters.folder import inspect_adapter
    from chatglm_backend.adapters.lora_tensors import read_lora
    from chatglm_backend.models.config import ModelConfig

    golden = Path(__file__).parents[1] / "golden"
    place = next(file.parent for file in sorted((golden / "chatglm3-6b-lora").rglob("adapter_config.json")))
    copy = Path(shutil.copytree(place, root / "lora"))
    config = ModelConfig.from_json(
        json.loads((golden / "chatglm3-6b" / "config.json").read_text("utf-8")), family="chatglm3"
    )
    files = {file: _by_name(file) for file in sorted(copy.iterdir()) if file.suffix in (".json", ".safetensors")}
    return Target(files, lambda: read_lora(inspect_adapter(copy), config))


def prefix(root: Path) -> Target:
    """A P-Tuning prefix in the authors' form, of the references."""
    import shutil

    from chatglm_backend.adapters.folder import inspect_adapter
    from chatglm_backend.checkpoint.prefix import read_prefix
    from chatglm_backend.checkpoint.tensors import open_file
    from chatglm_backend.models.config import ModelConfig

    golden = Path(__file__).parents[1] / "golden" / "chatglm-6b-ptuning"
    files: dict[Path, Mutator] = {root / "config.json": mutate.as_json, root / "pytorch_model.bin": mutate.archive}
    for file in files:
        shutil.copyfile(golden / "checkpoint-3000" / file.name, file)
    config = ModelConfig.from_json(json.loads((golden / "config.json").read_text("utf-8")), family="chatglm")

    def read() -> object:
        found = inspect_adapter(root)
        tensors = {one.name: one.rows() for one in open_file(found.file)}
        trained = read_prefix(tensors, config, found.file, found.config.get("pre_seq_len"))
        return [part.float().sum().item() for part in trained.parts()]

    return Target(files, read)


def documents(root: Path) -> Target:
    """PDF, docx and text."""
    import logging

    import docx

    from chatglm_backend.documents.extract import Unreadable, pages_of
    from tests.unit.test_documents_in_prompts import pdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    made, packed = docx.Document(), io.BytesIO()
    made.add_paragraph("hello")
    made.add_table(2, 2).cell(0, 0).text = "cell"
    made.save(packed)
    files: dict[Path, tuple[Mutator, bytes]] = {
        root / "a.pdf": (mutate.raw, pdf("one", "two")),
        root / "a.docx": (mutate.archive, packed.getvalue()),
        root / "a.txt": (mutate.raw, "你好 hello".encode("gb18030")),
    }
    for file, (_, data) in files.items():
        file.write_bytes(data)

    def read() -> object:
        for file in files:
            pages_of(file.read_bytes())
        return None

    return Target({file: how for file, (how, _) in files.items()}, read, refuses=(Unreadable,))


def settings(root: Path) -> Target:
    """The settings' file."""
    from chatglm_backend.settings import load_settings

    file = root / "config.toml"
    file.write_text('model = "x"\nport = 7860\nallow_origin = ["http://a"]\ntop_p = 0.5\nlisten = true\n')
    return Target({file: mutate.lines}, lambda: load_settings({}, {}, file=file))


def measured(root: Path) -> Target:
    """What ``benchmark`` remembers for ``doctor``."""
    from chatglm_backend.service import speed

    file = root / speed._FILE
    file.write_text(json.dumps(dict.fromkeys(("version", *speed.Speed.__slots__), 2)))
    return Target({file: mutate.as_json}, lambda: speed.recall(root, 2))


TARGETS: dict[str, Callable[[Path], Target]] = {
    made.__name__: made
    for made in (
        safetensors, pickles, old_pickles, folder, sentencepiece, tiktoken, tokenizers, low_bit, kernels, kv, history,
        export, batch, journal, lora, prefix, documents, settings, measured,
    )
}  # fmt: skip
