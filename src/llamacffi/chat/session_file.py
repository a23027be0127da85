"""The file of a saved chat: a history with its settings, and optionally the memory.

    8 bytes   magic
    4         version of this format                  little-endian, as all numbers
    4         length of the header
    32        blake2b of the header
    header    JSON
    the rest  a state, in the format of state_format.py; or nothing

Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamacffi.chat.history import copied
from llamacffi.chat.overflow import Overflow, Window
from llamacffi.chat.tools import Tools
from llamacffi.errors import ParameterError, StateError, TemplateError
from llamacffi.model import Model
from llamacffi.sampling.params import SamplingParams
from llamacffi.state_format import State, decode, write_atomically
from llamacffi.templates import JinjaTemplate, Template, find_template
from llamacffi.templates.choice import TemplateChoice
from llamacffi.templates.tools_as_text import ToolsAsText

__all__ = ["Saved", "described_session", "read_session", "write_session"]

MAGIC = b"LCFFI\x00CH"
VERSION = 1
PREFIX = struct.Struct("<8sII32s")
UNSAVED = ("grammar", "json_schema", "regex", "lark", "processors")


# The settings that are saved as they are, and what they may be.
SETTINGS: dict[str, tuple[type, ...]] = {
    "max_tokens": (int, type(None)),
    "max_tool_rounds": (int,),
    "enable_thinking": (bool,),
    "reasoning_budget": (int, type(None)),
    "template_variables": (dict,),
}


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a file of a session holds.

    Attributes:
        path: The file.
        model: The model's name, and its fingerprint.
        messages: The history.
        window: Which of it the model got to see.
        settings: Arguments of the constructor.
        unsaved: Those that it had and that no file can hold.
        state: The memory, if it was saved.
    """

    path: str
    model: tuple[str, str]
    messages: list[dict[str, Any]]
    window: Window
    settings: dict[str, Any]
    unsaved: list[str]
    state: State | None

    def check(self, model: Model, given: Mapping[str, Any]) -> None:
        """Refuse another model, with StateError, and too few settings, with ParameterError."""
        name, fingerprint = self.model
        if fingerprint != model.fingerprint:
            raise StateError(
                f"{self.path} was saved with the model {name!r:.80} ({fingerprint:.8}); this is "
                f"{model.path.name!r} ({model.fingerprint:.8}). Load it with that one."
            )
        missing = [name for name in self.unsaved if name not in given]
        if missing:
            raise ParameterError(
                f"{self.path} was saved by a session with {', '.join(missing)} of its own, which "
                "no file can hold: give them to `load`, or what is to take their place."
            )


def write_session(
    path: str | os.PathLike[str], header: dict[str, Any], state: State | None
) -> None:
    """Write a session; the previous file stays until all is written.

    Raises:
        OSError: It could not be written.
        ParameterError: The header holds what JSON cannot.
    """
    try:
        text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise ParameterError(
            f"The session cannot be written as JSON: {error}. Look at its messages, its template "
            "variables and its sampling."
        ) from None
    prefix = PREFIX.pack(MAGIC, VERSION, len(text), _digest(text))
    write_atomically(Path(path), [prefix, text, *(() if state is None else state.pieces())])


def read_session(path: str | os.PathLike[str]) -> Saved:
    """Read a session.

    Raises:
        OSError: It could not be read.
        StateError: It is no session, damaged, or of another version.
    """
    data = memoryview(Path(path).read_bytes())
    if len(data) < PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise StateError(f"{path} is no saved chat session.")
    _, version, length, digest = PREFIX.unpack(data[: PREFIX.size])
    if version != VERSION:
        raise StateError(
            f"{path} has version {version} of the format; this llamacffi reads {VERSION}. Save it "
            "again with this version."
        )
    end = PREFIX.size + length
    text = bytes(data[PREFIX.size : end])
    if len(text) < length or _digest(text) != digest:
        raise StateError(f"{path} is cut short or damaged. Save the session again.")
    try:
        header = json.loads(text.decode("utf-8", "surrogatepass"))
        saved = _saved(os.fspath(path), header)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateError(f"{path} makes no sense: {error!r:.200}. Save it again.") from None
    return dataclasses.replace(saved, state=decode(data[end:]) if len(data) > end else None)


def _saved(path: str, header: dict[str, Any]) -> Saved:
    """The header's parts, each of the type that it should have; else some error."""
    settings, window = header["settings"], Window(**header["window"])
    for name, kinds in SETTINGS.items():
        _check(name, settings[name], kinds)
    _check("summary", window.summary, (str,))
    for name in ("start", "moved_at"):
        if not 0 <= _check(name, getattr(window, name), (int,)) <= len(header["messages"]):
            raise ValueError(f"{name}={getattr(window, name)}")
    template = _check("template", header["template"], (str, type(None)))
    if template is not None and "{%" not in template and "{{" not in template:
        find_template(template)  # nothing that the file names is opened
    overflow = header["overflow"]
    if overflow not in ("drop", "shift", "raise"):
        raise ValueError(f"overflow={overflow!r:.80}")
    unsaved = _check("unsaved", header["unsaved"], (list,))
    return Saved(
        path,
        (_check("model", header["model"], (str,)), _check("", header["fingerprint"], (str,))),
        copied(_check("messages", header["messages"], (list,))),
        window,
        {
            **{name: settings[name] for name in SETTINGS},
            "sampling": _loaded_sampling(header["sampling"]),
            "template": template,
            "tools": Tools(_check("tools", header["tools"], (list,))).described,
            "overflow": overflow,
        },
        [str(_check("unsaved", name, (str,))) for name in unsaved],
        None,
    )


def _check(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name}={value!r:.80}")
    return value


def described_session(
    model: Model,
    *,
    messages: list[dict[str, Any]],
    window: Window,
    sampling: SamplingParams,
    template: tuple[TemplateChoice, Template],
    tools: Tools,
    overflow: Overflow,
    transforms: Mapping[str, object],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The header of a file: all of a session that can be saved, and the names of what cannot.

    Raises:
        ParameterError: The sampling has a grammar, a schema or processors.
    """
    unsaved = [name for name, transform in transforms.items() if transform is not None]
    named = _named_template(*template)
    if named is None and template[0] is not None:
        unsaved.append("template")
    if tools.functions:
        unsaved.append("tools")
    if callable(overflow):
        unsaved.append("overflow")
    return {
        "model": model.path.name,
        "fingerprint": model.fingerprint,
        "messages": messages,
        "window": dataclasses.asdict(window),
        "sampling": _saved_sampling(sampling),
        "template": named,
        "tools": [] if tools.functions else tools.described,
        "overflow": "drop" if callable(overflow) else overflow,
        "settings": dict(settings),
        "unsaved": unsaved,
    }


def _named_template(given: TemplateChoice, used: Template) -> str | None:
    """What names a template in a file: a name, Jinja text, or None for the model's."""
    if given is None or (isinstance(given, str) and not given.endswith(".jinja")):
        return given
    if isinstance(used, ToolsAsText):
        used = used.template
    if isinstance(used, JinjaTemplate) and ("{%" in used.source or "{{" in used.source):
        return used.source
    try:
        return used.name if find_template(used.name) is used else None
    except TemplateError:
        return None


def _saved_sampling(sampling: SamplingParams) -> dict[str, Any]:
    default = SamplingParams()
    unsaved = [key for key in UNSAVED if getattr(sampling, key) != getattr(default, key)]
    if unsaved:
        raise ParameterError(
            f"The session's sampling has {', '.join(unsaved)}, which no file can hold. Give them "
            "with each question, or set `sampling` without them before you save."
        )
    fields = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
    biases = [[token, value] for token, value in sampling.logit_bias.items()]
    return {key: fields[key] for key in fields if key not in UNSAVED} | {"logit_bias": biases}


def _loaded_sampling(fields: dict[str, Any]) -> SamplingParams:
    default, found = SamplingParams(), dict(fields)
    for name, value in fields.items():
        kind = type(getattr(default, name))
        if name in UNSAVED:
            raise TypeError(f"{name}={value!r:.80}")
        if name == "seed":
            _check(name, value, (int, type(None)))
        elif name == "logit_bias":
            found[name] = {
                _check(name, token, (int,)): _check(name, bias, (int, float, bool))
                for token, bias in value
            }
        elif kind is tuple:
            found[name] = tuple(_check(name, item, (str,)) for item in _check(name, value, (list,)))
        else:
            _check(name, value, (int, float) if kind is float else (kind,))
    return SamplingParams(**found)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=32).digest()
