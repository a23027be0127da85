"""The prompt formats that have a name, each a Jinja file beside this table.

The files are written after what the makers of the models have published. They take the variables of
Hugging Face's templates: messages, tools, add_generation_prompt, bos_token and eos_token. The role
"developer" is another word for "system". A content may be a text or a list of text parts. What a
format has no place for is refused with `raise_exception`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sys

    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

__all__ = ["NamedFormat", "named_formats"]


class NamedFormat(NamedTuple):
    """A prompt format and its Jinja file.

    Attributes:
        name: What users write: `--template chatml`.
        description: What it looks like and what it can express, in one line.
        models: The models that were trained on it.
        stops: Strings that end the answer, for models whose vocabulary has no token for them.
    """

    name: str
    description: str
    models: str
    stops: tuple[str, ...] = ()

    @property
    def path(self) -> Traversable:
        """The Jinja file, wherever the package is installed."""
        from importlib.resources import files  # only for those who use a named format

        return files(__name__) / f"{self.name}.jinja"

    def source(self) -> str:
        """The Jinja text, read at each call."""
        return self.path.read_text(encoding="utf-8")


_FORMATS = (
    NamedFormat(
        "chatml",
        "<|im_start|>role, content, <|im_end|>; tools as in Hermes: <tools>, <tool_call>",
        "Qwen, Yi, SmolLM, Hermes, Dolphin and many fine-tunes",
        ("<|im_end|>",),
    ),
    NamedFormat(
        "alpaca",
        "### Instruction: and ### Response:, after a preamble that a system message replaces",
        "Alpaca and fine-tunes on its data",
        ("### Instruction:",),
    ),
    NamedFormat(
        "vicuna",
        "USER: and ASSISTANT:, after a preamble that a system message replaces",
        "Vicuna 1.1 and 1.5, WizardLM, LLaVA 1.5",
        ("USER:",),
    ),
    NamedFormat(
        "zephyr",
        "<|system|>, <|user|> and <|assistant|>, each message ended by the end token",
        "Zephyr, StableLM Zephyr, TinyLlama Chat",
        ("</s>", "<|user|>"),
    ),
    NamedFormat(
        "llama-2",
        "[INST] and [/INST], the system text as <<SYS>> in the first user message",
        "Llama 2 Chat, Code Llama Instruct",
        ("</s>",),
    ),
    NamedFormat(
        "llama-3",
        "<|start_header_id|>role<|end_header_id|>, <|eot_id|>; tools as the JSON calls of 3.1",
        "Llama 3, 3.1, 3.2 and 3.3 Instruct",
        ("<|eot_id|>",),
    ),
    NamedFormat(
        "mistral-v1",
        "[INST] and [/INST] with spaces around, the system text in the first user message",
        "Mistral 7B Instruct 0.1 and 0.2, Mixtral 8x7B Instruct",
        ("</s>",),
    ),
    NamedFormat(
        "mistral-v3",
        "[INST], the system text in the last user message; [AVAILABLE_TOOLS], [TOOL_CALLS]",
        "Mistral 7B Instruct 0.3, Mixtral 8x22B Instruct, Mistral Large 2407",
        ("</s>",),
    ),
    NamedFormat(
        "mistral-v7",
        "[SYSTEM_PROMPT] and [INST]; tools as [AVAILABLE_TOOLS], [TOOL_CALLS], [TOOL_RESULTS]",
        "Mistral Large 2411",
        ("</s>",),
    ),
    NamedFormat(
        "gemma",
        "<start_of_turn>, with user and model in turn, the system text in the first user message",
        "Gemma, Gemma 2 and Gemma 3",
        ("<end_of_turn>",),
    ),
    NamedFormat(
        "phi-3",
        "<|system|>, <|user|> and <|assistant|>, each message ended by <|end|>",
        "Phi-3 and Phi-3.5",
        ("<|end|>",),
    ),
    NamedFormat(
        "command-r",
        "<|START_OF_TURN_TOKEN|> and a role's token; tools as Python, calls as an Action list",
        "Command R and Command R+",
        ("<|END_OF_TURN_TOKEN|>",),
    ),
    NamedFormat(
        "deepseek",
        "Full-width <|User|> and <|Assistant|> marks, the system text at the start",
        "DeepSeek V3 and R1 and the distilled R1 models",
        ("<\uff5cend\u2581of\u2581sentence\uff5c>",),
    ),
    NamedFormat(
        "openchat",
        "GPT4 Correct User: and GPT4 Correct Assistant:, ended by <|end_of_turn|>",
        "OpenChat 3.5, Starling",
        ("<|end_of_turn|>",),
    ),
    NamedFormat(
        "gpt-oss",
        "OpenAI's harmony: <|start|>role<|channel|>name<|message|>; tools as TypeScript, thoughts",
        "gpt-oss-20b and gpt-oss-120b; the file is upstream's, installed by the build",
        ("<|return|>", "<|call|>"),
    ),
)


def named_formats() -> Iterator[NamedFormat]:
    """The built-in formats: name, description, models and stops, and `path` and `source()`.

    Reads no file; only `source()` does.
    """
    yield from _FORMATS
