"""Run GGUF language models inside Python: llama.cpp behind CFFI, the backend chosen at run time.

Importing this package opens no library and imports no heavy one: names are loaded when first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamacffi import aio as aio
    from llamacffi import errors as errors
    from llamacffi import hub as hub
    from llamacffi import plugins as plugins
    from llamacffi import templates as templates
    from llamacffi.adapter import Adapter as Adapter
    from llamacffi.async_chat import AsyncChatSession as AsyncChatSession
    from llamacffi.async_llama import AsyncLlama as AsyncLlama
    from llamacffi.backends import Backend as Backend
    from llamacffi.backends import BackendReport as BackendReport
    from llamacffi.backends import Device as Device
    from llamacffi.backends import backends as backends
    from llamacffi.batch import Batch as Batch
    from llamacffi.chat import ChatSession as ChatSession
    from llamacffi.context import Context as Context
    from llamacffi.context_params import ContextParams as ContextParams
    from llamacffi.disk_cache import DiskPromptCache as DiskPromptCache
    from llamacffi.drafting import DraftModel as DraftModel
    from llamacffi.drafting import PromptLookup as PromptLookup
    from llamacffi.engine import AsyncEngine as AsyncEngine
    from llamacffi.engine import Branch as Branch
    from llamacffi.engine import Engine as Engine
    from llamacffi.engine import EngineStats as EngineStats
    from llamacffi.fitting import Fit as Fit
    from llamacffi.hookspecs import hookimpl as hookimpl
    from llamacffi.llama import Llama as Llama
    from llamacffi.memory import Memory as Memory
    from llamacffi.memory_plan import MemoryPlan as MemoryPlan
    from llamacffi.model import Model as Model
    from llamacffi.prompt_cache import PromptCache as PromptCache
    from llamacffi.sampling import Grammar as Grammar
    from llamacffi.sampling import NativeNode as NativeNode
    from llamacffi.sampling import Sampler as Sampler
    from llamacffi.sampling import SamplerChain as SamplerChain
    from llamacffi.sampling import SamplingParams as SamplingParams
    from llamacffi.sampling import samplers as samplers
    from llamacffi.vocab import StreamDecoder as StreamDecoder
    from llamacffi.vocab import Vocab as Vocab

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adapter",
    "AsyncChatSession": "async_chat",
    "AsyncEngine": "engine",
    "AsyncLlama": "async_llama",
    "Backend": "backends",
    "BackendReport": "backends",
    "Batch": "batch",
    "Branch": "engine",
    "ChatSession": "chat",
    "Context": "context",
    "ContextParams": "context_params",
    "Device": "backends",
    "DiskPromptCache": "disk_cache",
    "DraftModel": "drafting",
    "Engine": "engine",
    "EngineStats": "engine",
    "Fit": "fitting",
    "Grammar": "sampling",
    "Llama": "llama",
    "Memory": "memory",
    "MemoryPlan": "memory_plan",
    "Model": "model",
    "NativeNode": "sampling",
    "PromptCache": "prompt_cache",
    "PromptLookup": "drafting",
    "Sampler": "sampling",
    "SamplerChain": "sampling",
    "SamplingParams": "sampling",
    "StreamDecoder": "vocab",
    "Vocab": "vocab",
    "hookimpl": "hookspecs",
    "samplers": "sampling",
}
_MODULES = ("aio", "backends", "errors", "hub", "plugins", "templates")  # backends can be called
__all__ = [*_HOMES, *_MODULES, "__version__"]

# A library must not print warnings by itself; the application decides where logs go.
logging.getLogger("llamacffi").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"llamacffi.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llamacffi' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"llamacffi.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
