"""Every error a user can meet, as one tree.

Each class has a stable ``code`` and named fields; the catalogues hold its sentence as ``error.<code>``.
Standard library only, so that any room may raise these.

    ChatGLMError
    ├── ConfigError            a setting or flag is wrong
    ├── RequestError           this request cannot be served; the next one can
    │   ├── InvalidRequest, UnusableSchema, ContextLimitExceeded, QueueFull, TooManyRequests, DocumentRefused
    │   └── ModelNotReady (NoMachine), UnknownAdapter, EngineFailure, ShuttingDown
    ├── ModelError             no usable model
    │   ├── ModelNotFound, ModelNotCached (ModelOffline), HubUnreachable, UnusableVariable, DownloadFailed
    │   ├── LoadCancelled      the user stopped a download or conversion
    │   ├── CheckpointError: LfsPointerFile, MissingFile, DamagedFile, DamagedLowBit, WrongShape,
    │   │                    UnsafeCheckpoint, UnsupportedFamily, UnsupportedQuantization, UnusableReference
    │   ├── AdapterError           a fine-tune cannot be used: AdapterNotFound, AdapterEmpty, AdapterNameUsed,
    │   │                          AdapterUnsupported, AdapterMismatch, AdapterDamaged
    │   └── NotEnoughDisk, NotEnoughMemory, CacheLocked, ModelInUse
    ├── HistoryError           conversations cannot be kept or found: HistoryUnavailable, HistoryDamaged,
    │                          HistoryReplaced, HistoryRepaired, ConversationGone, ConversationDamaged,
    │                          ConversationChanged, ImportRefused
    ├── BatchRefused           a file cannot be a batch's input or output
    └── PlatformError          this machine cannot run it: UnsupportedPlatform, NativeLibraryError, PortInUse,
                               ClusterError
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from chatglm_backend.sentences import Sentence


class ChatGLMError(Exception):
    """Base of all errors shown to users. Keyword fields fill the catalogue's sentence; ``str`` says it in English."""

    code: ClassVar[str] = "error"

    def __init_subclass__(cls, code: str) -> None:
        cls.code = code

    def __init__(self, **fields: object) -> None:
        self.sentence = Sentence(f"error.{self.code}", **fields)
        super().__init__()

    def __str__(self) -> str:
        return str(self.sentence)

    @property
    def fields(self) -> Mapping[str, object]:
        """What fills the sentence."""
        return self.sentence.fields


class ConfigError(ChatGLMError, code="config"):
    """A setting, flag or configuration file is wrong."""


class RequestError(ChatGLMError, code="request"):
    """This request cannot be served; others can."""


class InvalidRequest(RequestError, code="invalid_request"):
    """A field of the request is out of range or of the wrong type."""


class UnusableSchema(RequestError, code="unusable_schema"):
    """A JSON schema that an answer cannot be kept to."""


class ContextLimitExceeded(RequestError, code="context_limit"):
    """The prompt does not fit the model's context."""


class NoMemoryForPrompt(RequestError, code="no_memory_for_prompt"):
    """The K/V of the prompt and its answer do not fit the memory."""


class QueueFull(RequestError, code="queue_full"):
    """Too many requests wait already."""


class TooManyRequests(RequestError, code="too_many_requests"):
    """One visitor has too many requests waiting."""


class DocumentRefused(RequestError, code="document_refused"):
    """A file beside a question cannot be read."""


class ModelNotReady(RequestError, code="model_not_ready"):
    """No model is loaded yet."""


class NoMachine(ModelNotReady, code="no_machine"):
    """None of several machines answers."""


class UnknownAdapter(RequestError, code="unknown_adapter"):
    """The request names a fine-tune that is not loaded."""


class EngineFailure(RequestError, code="engine_failure"):
    """An unexpected exception ended this request."""


class ShuttingDown(RequestError, code="shutting_down"):
    """The program is ending and finishes only what it has begun."""


class ModelError(ChatGLMError, code="model"):
    """There is no usable model."""


class ModelNotFound(ModelError, code="model_not_found"):
    """Neither a folder nor a hub id."""


class ModelNotCached(ModelError, code="model_not_cached"):
    """A hub model that is not on this machine, where nothing may be downloaded."""


class ModelOffline(ModelNotCached, code="model_offline"):
    """A hub model that is not on this machine, which is told not to use the network."""


class HubUnreachable(ModelError, code="hub_unreachable"):
    """The hub cannot be reached."""


class UnusableVariable(ModelError, code="unusable_variable"):
    """The environment says how the hub is reached, but it cannot be done like that."""


class DownloadFailed(ModelError, code="download_failed"):
    """The hub answered, but not with the model."""


class LoadCancelled(ModelError, code="load_cancelled"):
    """The user stopped a download or a conversion."""


class CheckpointError(ModelError, code="checkpoint"):
    """A checkpoint folder cannot be read."""


class LfsPointerFile(CheckpointError, code="lfs_pointer"):
    """A git clone without git-lfs left a pointer in place of the weights."""


class MissingFile(CheckpointError, code="missing_file"):
    """A file of the checkpoint is not there."""


class DamagedFile(CheckpointError, code="damaged_file"):
    """A file is truncated, changed or not what it says."""


class DamagedLowBit(DamagedFile, code="damaged_low_bit"):
    """A file of a low-bit checkpoint is damaged and its source is not here to rebuild it."""


class WrongShape(CheckpointError, code="wrong_shape"):
    """A tensor does not have the shape that the config asks for."""


class UnsafeCheckpoint(CheckpointError, code="unsafe_checkpoint"):
    """A pickle that holds more than tensors."""


class UnsupportedFamily(CheckpointError, code="unsupported_family"):
    """Not one of our families, or one that contradicts itself."""


class UnsupportedQuantization(CheckpointError, code="unsupported_quantization"):
    """Weights in a low-bit form we do not read."""


class UnusableReference(CheckpointError, code="unusable_reference"):
    """Recorded values that ``verify`` should compare with are not there or cannot be read."""


class AdapterError(ModelError, code="adapter"):
    """A fine-tune cannot be used; the base model can."""


class AdapterNotFound(AdapterError, code="adapter_not_found"):
    """Neither a LoRA folder nor one with a prefix."""


class AdapterEmpty(AdapterError, code="adapter_empty"):
    """A folder whose weight file holds no weights, as faulty saving leaves it."""


class AdapterNameUsed(AdapterError, code="adapter_name_used"):
    """Another fine-tune has this name."""


class AdapterUnsupported(AdapterError, code="adapter_unsupported"):
    """A field or tensor that changes answers in a way that is not computed here."""


class AdapterMismatch(AdapterError, code="adapter_mismatch"):
    """A fine-tune of another base."""


class AdapterDamaged(AdapterError, code="adapter_damaged"):
    """Numbers that are not finite."""


class NotEnoughDisk(ModelError, code="not_enough_disk"):
    """Too little free disk."""


class NotEnoughMemory(ModelError, code="not_enough_memory"):
    """Too little memory, cgroup limits counted."""


class ModelTooLarge(NotEnoughMemory, code="model_too_large"):
    """The weights and the K/V of one visitor do not fit the memory."""


class CacheLocked(ModelError, code="cache_locked"):
    """Another process is writing the same low-bit checkpoint."""


class ModelInUse(ModelError, code="model_in_use"):
    """The model is loaded; its files are mapped."""


class HistoryError(ChatGLMError, code="history"):
    """Something about kept conversations."""


class HistoryUnavailable(HistoryError, code="history_unavailable"):
    """The file cannot be opened or written: full disk, read-only folder."""


class HistoryDamaged(HistoryError, code="history_damaged"):
    """The file was damaged and set aside."""


class HistoryReplaced(HistoryDamaged, code="history_replaced"):
    """Somebody else deleted the file, replaced it or set it aside; what was asked is not in the new one."""


class HistoryRepaired(HistoryError, code="history_repaired"):
    """The file was damaged and could be put right; what was asked was not done."""


class ConversationGone(HistoryError, code="conversation_gone"):
    """Deleted, perhaps in another tab, or never this visitor's."""


class ConversationDamaged(HistoryError, code="conversation_damaged"):
    """A byte of it has changed on disk; the others are as they were."""


class ConversationChanged(HistoryError, code="conversation_changed"):
    """It went on in another tab."""


class PromptNotSaved(HistoryError, code="prompt_not_saved"):
    """Nothing to save, too long, or too many."""


class ImportRefused(HistoryError, code="import_refused"):
    """A file that is not an export of ours."""


class ImportTooLarge(ImportRefused, code="import_too_large"):
    """More than the limit."""


class ImportNotOurs(ImportRefused, code="import_not_ours"):
    """No JSON, or none of ours."""


class ImportOtherVersion(ImportRefused, code="import_other_version"):
    """Written in a later or an older form."""


class ImportDamaged(ImportRefused, code="import_damaged"):
    """Our form, but a field in it is not as it should be."""


class BatchRefused(ChatGLMError, code="batch_refused"):
    """A file cannot be a batch's input or output."""


class PlatformError(ChatGLMError, code="platform"):
    """This machine cannot run it."""


class UnsupportedPlatform(PlatformError, code="unsupported_platform"):
    """Not Linux or Windows on x86-64."""


class NativeLibraryError(PlatformError, code="native_library"):
    """No INT4 library of bigdl-llm works here."""


class PortInUse(PlatformError, code="port_in_use"):
    """The port is taken."""


class ClusterError(PlatformError, code="cluster"):
    """The cluster cannot be started or joined; the reason says what to do."""
