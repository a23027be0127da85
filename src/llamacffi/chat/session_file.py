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
from pathlib import Path
from typing import Any

from llamacffi.errors import ParameterError, StateError
from llamacffi.sampling.params import SamplingParams
from llamacffi.state_format import State, decode, write_atomically
from llamacffi.templates import JinjaTemplate, Template
from llamacffi.templates.choice import TemplateChoice

__all__ = ["loaded_sampling", "read_session", "saved_sampling", "saved_template", "write_session"]

MAGIC = b"LCFFI\x00CH"
VERSION = 1
PREFIX = struct.Struct("<8sII32s")
MAX_HEADER_BYTES = 1 << 28
UNSAVED = ("grammar", "json_schema", "regex", "lark", "processors")


def write_session(
    path: str | os.PathLike[str], header: dict[str, Any], state: State | None
) -> None:
    """Write a session; the previous file stays until all is written.

    Raises:
        OSError: It could not be written.
    """
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    prefix = PREFIX.pack(MAGIC, VERSION, len(text), _digest(text))
    write_atomically(Path(path), [prefix, text, *(() if state is None else state.pieces())])


def read_session(path: str | os.PathLike[str]) -> tuple[dict[str, Any], State | None]:
    """Read a session: its header, and its state if it has one.

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
    if length > MAX_HEADER_BYTES or len(text) < length or _digest(text) != digest:
        raise StateError(f"{path} is cut short or damaged. Save the session again.")
    try:
        header = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is damaged: {error}. Save the session again.") from None
    if not isinstance(header, dict):
        raise StateError(f"{path} is damaged: its header is no dictionary.")
    return header, decode(data[end:]) if len(data) > end else None


def saved_template(given: TemplateChoice, used: Template) -> str | None:
    """What names a template in a file: a name, Jinja text, or None for the model's."""
    if given is None or (isinstance(given, str) and not given.endswith(".jinja")):
        return given
    return used.source if isinstance(used, JinjaTemplate) else used.name


def saved_sampling(sampling: SamplingParams) -> dict[str, Any]:
    """Sampling parameters as JSON holds them.

    Raises:
        ParameterError: They have a grammar, a schema or processors.
    """
    default = SamplingParams()
    unsaved = [key for key in UNSAVED if getattr(sampling, key) != getattr(default, key)]
    if unsaved:
        raise ParameterError(
            f"The session's sampling has {', '.join(unsaved)}, which no file can hold. Give them "
            "with each question, or set `sampling` without them before you save."
        )
    fields = dataclasses.asdict(sampling)
    biases = {str(token): value for token, value in fields["logit_bias"].items()}
    return {key: fields[key] for key in fields if key not in UNSAVED} | {"logit_bias": biases}


def loaded_sampling(fields: dict[str, Any]) -> SamplingParams:
    """The sampling parameters that were saved.

    Raises:
        TypeError, ValueError, AttributeError: They were not.
    """
    biases = {int(token): value for token, value in fields["logit_bias"].items()}
    return SamplingParams(**{**fields, "logit_bias": biases})


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=32).digest()
