"""The tree of exceptions: everything the library raises on purpose derives from LlamaCffiError.

Each message says what was asked, what was found and what to do about it. Where a built-in
exception describes the same mistake, the class derives from it too, so that `except ValueError`
and `except FileNotFoundError` work as a Python programmer expects.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AdapterError",
    "BackendUnavailableError",
    "BusyError",
    "CancelledError",
    "ClosedError",
    "ContextFullError",
    "ContextInitError",
    "DeadlineError",
    "DecodeError",
    "DeviceMemoryError",
    "DownloadError",
    "EmptyInputError",
    "ForkedError",
    "GrammarError",
    "InvalidPositionError",
    "InvalidSequenceError",
    "InvalidTokenError",
    "LibraryMismatchError",
    "LlamaCffiError",
    "ModelFormatError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NativeError",
    "ParameterError",
    "PluginError",
    "RemoteDeviceError",
    "ReplicaDiedError",
    "SamplingError",
    "SchemaError",
    "StateError",
    "TemplateError",
    "UnsupportedError",
]


class LlamaCffiError(Exception):
    """Base of every exception that llamacffi raises on purpose."""


class ParameterError(LlamaCffiError, ValueError):
    """An argument has a value that makes no sense; the message names the values that do."""


# -- libraries, backends, plugins ---------------------------------------------------------------


class BackendUnavailableError(LlamaCffiError):
    """The backend that was asked for cannot be used; the message lists every candidate and why."""


class LibraryMismatchError(BackendUnavailableError):
    """A native library was built from other sources than this package's declarations."""


class PluginError(LlamaCffiError):
    """A plugin could not be loaded, or registered something that breaks the contract."""


class NativeError(LlamaCffiError):
    """llama.cpp threw an exception or failed an assertion; the message carries its own words."""


class RemoteDeviceError(LlamaCffiError):
    """A server of `rpc_servers` cannot be reached, or is lost with the models that use it."""


# -- lifetimes ----------------------------------------------------------------------------------


class ClosedError(LlamaCffiError):
    """A native object was used after it was closed."""


class ForkedError(LlamaCffiError):
    """A native object was used in a child process made by fork(); it belongs to the parent."""


# -- models -------------------------------------------------------------------------------------


class ModelLoadError(LlamaCffiError):
    """A model could not be loaded; the message carries the tail of the native log."""


class ModelNotFoundError(ModelLoadError, FileNotFoundError):
    """No model file is where the argument points, and the argument is no alias."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ModelFormatError(ModelLoadError, ValueError):
    """The file is not a GGUF file, is cut short, or describes a model that cannot be run."""


class DownloadError(LlamaCffiError):
    """A model could not be fetched, or what arrived does not have the expected hash."""


class AdapterError(LlamaCffiError, ValueError):
    """A LoRA adapter could not be loaded or does not belong to the model."""


class UnsupportedError(LlamaCffiError):
    """The model, the memory type or the backend cannot do what was asked."""


# -- contexts and decoding ----------------------------------------------------------------------


class ContextInitError(LlamaCffiError):
    """A context could not be created with these parameters."""


class DeviceMemoryError(ModelLoadError, ContextInitError):
    """A device has too little memory for the model or the context.

    Attributes:
        needed: Bytes that were needed on each device, by its name; empty if nobody knows.
        free: Bytes that were free on each of them.
    """

    def __init__(
        self,
        message: str,
        needed: Mapping[str, int] | None = None,
        free: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.needed = dict(needed or {})
        self.free = dict(free or {})


class DecodeError(LlamaCffiError):
    """llama_decode or llama_encode failed; the memory is as it was before the call."""


class ContextFullError(DecodeError, ValueError):
    """The tokens do not fit in the context."""


class CancelledError(LlamaCffiError):
    """The work was cancelled from another thread or by a callback."""


class BusyError(LlamaCffiError):
    """So many requests wait already that no more are taken."""


class DeadlineError(LlamaCffiError, TimeoutError):
    """A request was not over when its time was."""


class ReplicaDiedError(LlamaCffiError):
    """Every replica that a request was given to died before the answer was whole."""


class EmptyInputError(LlamaCffiError, ValueError):
    """A prompt or a batch without a single token."""


class InvalidTokenError(LlamaCffiError, ValueError):
    """A token id is outside the vocabulary."""


class InvalidPositionError(LlamaCffiError, ValueError):
    """A position is negative, repeated or leaves a gap."""


class InvalidSequenceError(LlamaCffiError, ValueError):
    """A sequence id is outside the context's n_seq_max."""


class StateError(LlamaCffiError, ValueError):
    """Saved bytes are damaged, or belong to another model or to other parameters."""


# -- text ---------------------------------------------------------------------------------------


class GrammarError(LlamaCffiError, ValueError):
    """A grammar could not be parsed; the message names the line and column."""


class SchemaError(GrammarError):
    """A JSON schema is malformed, or has keywords that cannot be enforced, which are named."""


class SamplingError(LlamaCffiError):
    """No token can be picked: a grammar, a ban or a logits processor left none."""


class TemplateError(LlamaCffiError, ValueError):
    """A prompt template is unknown, or could not be rendered."""
