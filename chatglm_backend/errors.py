"""Every error a user can meet, as one tree.

Each class has a stable ``code``, named fields, and an English ``template`` for the terminal
and logs. The page looks the code up in its catalogue and fills in the same fields.
Standard library only; imports nothing of ours, so that any room may raise these.

    ChatGLMError
    ├── ConfigError            a setting or flag is wrong
    ├── RequestError           this request cannot be served; the next one can
    │   ├── InvalidRequest, ContextLimitExceeded, QueueFull, TooManyRequests
    │   └── ModelNotReady, EngineFailure, ShuttingDown
    ├── ModelError             no usable model
    │   ├── ModelNotFound, ModelNotCached (ModelOffline), HubUnreachable, DownloadFailed
    │   ├── LoadCancelled      the user stopped a download or conversion
    │   ├── CheckpointError: LfsPointerFile, MissingFile, DamagedFile, DamagedLowBit, WrongShape,
    │   │                    UnsafeCheckpoint, UnsupportedFamily, UnsupportedQuantization, UnusableReference
    │   └── NotEnoughDisk, NotEnoughMemory, CacheLocked, ModelInUse
    ├── HistoryError           conversations cannot be kept or found: HistoryUnavailable, HistoryDamaged,
    │                          ConversationGone, ConversationChanged, ImportRefused
    └── PlatformError          this machine cannot run it: UnsupportedPlatform, NativeLibraryError, PortInUse
"""

from __future__ import annotations

from typing import ClassVar


class ChatGLMError(Exception):
    """Base of all errors shown to users. Keyword fields fill the class's ``template``."""

    code: ClassVar[str] = "error"
    template: ClassVar[str] = "Something went wrong: {reason}."

    def __init__(self, **fields: object) -> None:
        self.fields: dict[str, object] = fields
        super().__init__(self.template.format_map(fields))


class ConfigError(ChatGLMError):
    """A setting, flag or configuration file is wrong."""

    code = "config"
    template = "The setting {name} cannot be {value}: {reason}."


class RequestError(ChatGLMError):
    """This request cannot be served; others can."""

    code = "request"
    template = "This request cannot be served: {reason}."


class InvalidRequest(RequestError):
    """A field of the request is out of range or of the wrong type."""

    code = "invalid_request"
    template = "{field} cannot be {value!s}: {reason}."


class ContextLimitExceeded(RequestError):
    """The prompt does not fit the model's context."""

    code = "context_limit"
    template = (
        "The prompt has {prompt_tokens} tokens, but this model reads at most {limit}, the answer included. "
        "Shorten the prompt."
    )


class QueueFull(RequestError):
    """Too many requests wait already."""

    code = "queue_full"
    template = "{waiting} requests are waiting already. Try again in a moment."


class TooManyRequests(RequestError):
    """One visitor has too many requests at once."""

    code = "too_many_requests"
    template = "You already have {limit} requests running or waiting. Wait for one of them or stop it."


class ModelNotReady(RequestError):
    """No model is loaded yet."""

    code = "model_not_ready"
    template = "The model is not ready yet. Wait until loading has finished, or load another model."


class EngineFailure(RequestError):
    """An unexpected exception ended this request."""

    code = "engine_failure"
    template = "The engine failed on this request ({reason}). Other requests go on; try again."


class ShuttingDown(RequestError):
    """The program is ending and finishes only what it has begun."""

    code = "shutting_down"
    template = "The server is shutting down and takes no new requests. Try again once it is back."


class ModelError(ChatGLMError):
    """There is no usable model."""

    code = "model"
    template = "The model cannot be used: {reason}."


class ModelNotFound(ModelError):
    """Neither a folder nor a hub id."""

    code = "model_not_found"
    template = "There is no model folder at {path}, and it is not a hub id such as THUDM/chatglm-6b."


class ModelNotCached(ModelError):
    """A hub model that is not on this machine, where nothing may be downloaded."""

    code = "model_not_cached"
    template = "{model} is not on this machine. Fetch it once with: python -m chatglm_backend download --model {model}"


class ModelOffline(ModelNotCached):
    """A hub model that is not on this machine, which is told not to use the network."""

    code = "model_offline"
    template = (
        "{model} is not on this machine, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids fetching it. "
        "Unset it and run: python -m chatglm_backend download --model {model}"
    )


class HubUnreachable(ModelError):
    """The hub cannot be reached."""

    code = "hub_unreachable"
    template = (
        "{model} is not on this machine and {endpoint} cannot be reached. Connect to the internet, "
        "set HF_ENDPOINT to a mirror, or give a local folder."
    )


class DownloadFailed(ModelError):
    """The hub answered, but not with the model."""

    code = "download_failed"
    template = "Downloading {model} failed: {reason}. Run the same command again to resume."


class LoadCancelled(ModelError):
    """The user stopped a download or a conversion."""

    code = "load_cancelled"
    template = "Preparing {model} was stopped. Start it again to go on; finished downloads are kept."


class CheckpointError(ModelError):
    """A checkpoint folder cannot be read."""

    code = "checkpoint"
    template = "The checkpoint in {path} cannot be used: {reason}."


class LfsPointerFile(CheckpointError):
    """A git clone without git-lfs left a pointer in place of the weights."""

    code = "lfs_pointer"
    template = (
        "{path} is a git-lfs pointer, not the file itself. Run 'git lfs pull' in that folder, or download it again."
    )


class MissingFile(CheckpointError):
    """A file of the checkpoint is not there."""

    code = "missing_file"
    template = "{path} is missing. Download the model again to complete it."


class DamagedFile(CheckpointError):
    """A file is truncated, changed or not what it says."""

    code = "damaged_file"
    template = "{path} is damaged or incomplete ({reason}). Delete it and download it again."


class DamagedLowBit(DamagedFile):
    """A file of a low-bit checkpoint is damaged and its source is not here to rebuild it."""

    code = "damaged_low_bit"
    template = "{path} is damaged or incomplete ({reason}). Convert the original model again to replace it."


class WrongShape(CheckpointError):
    """A tensor does not have the shape that the config asks for."""

    code = "wrong_shape"
    template = "{tensor} in {path} has the shape {found}, but the config asks for {expected}."


class UnsafeCheckpoint(CheckpointError):
    """A pickle that holds more than tensors."""

    code = "unsafe_checkpoint"
    template = "{path} holds Python objects besides tensors and is not loaded. Use a checkpoint from its authors."


class UnsupportedFamily(CheckpointError):
    """Not one of the three families."""

    code = "unsupported_family"
    template = "{path} holds {found}; ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B are supported."


class UnsupportedQuantization(CheckpointError):
    """Weights in a low-bit form we do not read."""

    code = "unsupported_quantization"
    template = "{path} is quantised as {found}; only fp16/fp32 checkpoints and THUDM's 4-bit ones are read."


class UnusableReference(CheckpointError):
    """Recorded values that ``verify`` should compare with are not there or cannot be read."""

    code = "unusable_reference"
    template = "{path} cannot be compared with ({reason}). Give recorded values such as those in tests/golden."


class NotEnoughDisk(ModelError):
    """Too little free disk."""

    code = "not_enough_disk"
    template = (
        "{path} has {free_gb:.2f} GB free, but {needed_gb:.2f} GB are needed. Free some space or set CHATGLM_CACHE."
    )


class NotEnoughMemory(ModelError):
    """Too little memory, cgroup limits counted."""

    code = "not_enough_memory"
    template = "{free_gb:.2f} GB of memory are available, but {needed_gb:.2f} GB are needed. Close other programs."


class CacheLocked(ModelError):
    """Another process is writing the same low-bit checkpoint."""

    code = "cache_locked"
    template = "Another process is preparing {path}. Wait until it has finished."


class ModelInUse(ModelError):
    """The model is loaded; its files are mapped."""

    code = "model_in_use"
    template = "{model} is loaded and cannot be deleted. Load another model first."


class HistoryError(ChatGLMError):
    """Something about kept conversations."""

    code = "history"
    template = "The conversations cannot be used: {reason}."


class HistoryUnavailable(HistoryError):
    """The file cannot be opened or written: full disk, read-only folder."""

    code = "history_unavailable"
    template = (
        "Conversations cannot be kept in {path} ({reason}). The page goes on without them; "
        "make room there, or choose another folder with --data."
    )


class HistoryDamaged(HistoryError):
    """The file was damaged and set aside."""

    code = "history_damaged"
    template = "The file with the conversations was damaged; it is kept as {path}, and a new one was begun."


class ConversationGone(HistoryError):
    """Deleted, perhaps in another tab, or never this visitor's."""

    code = "conversation_gone"
    template = "This conversation is no longer there. Begin a new one, or open another from the list."


class ConversationChanged(HistoryError):
    """It went on in another tab."""

    code = "conversation_changed"
    template = "This conversation went on in another tab. Open it again from the list to see all of it."


class ImportRefused(HistoryError):
    """A file that is not an export of ours."""

    code = "import_refused"
    template = "This file cannot be imported: {reason}. Choose a JSON file that was exported here."


class ImportTooLarge(ImportRefused):
    """More than the limit."""

    code = "import_too_large"
    template = "This file is larger than {megabytes} MB and cannot be imported. Export fewer conversations at a time."


class ImportNotOurs(ImportRefused):
    """No JSON, or none of ours."""

    code = "import_not_ours"
    template = "This file holds no conversations of this program. Choose a JSON file that was exported here."


class ImportOtherVersion(ImportRefused):
    """Written in a later or an older form."""

    code = "import_other_version"
    template = "This file was written by another version of this program. Export it again with this one."


class ImportDamaged(ImportRefused):
    """Our form, but a field in it is not as it should be."""

    code = "import_damaged"
    template = "This file is damaged ({field} is not as it should be) and nothing of it was imported. Export it again."


class PlatformError(ChatGLMError):
    """This machine cannot run it."""

    code = "platform"
    template = "This machine cannot run the model: {reason}."


class UnsupportedPlatform(PlatformError):
    """Not Linux or Windows on x86-64."""

    code = "unsupported_platform"
    template = (
        "{platform} is not supported: bigdl-llm has INT4 libraries for Linux and Windows on x86-64 only. "
        "Start the page on such a machine and open it from here over the network."
    )


class NativeLibraryError(PlatformError):
    """No INT4 library of bigdl-llm works here."""

    code = "native_library"
    template = "No INT4 library of bigdl-llm works on this CPU ({reason})."


class PortInUse(PlatformError):
    """The port is taken."""

    code = "port_in_use"
    template = "Port {port} on {host} is in use. Try --port {free_port}."
