"""What the named formats look like, spelled out after their makers' descriptions.

The conversations are those of test_named_templates: USER is "Hi", SYSTEM "Be terse.", and TURNS is
SYSTEM, "Hi", "Hello.", "Bye". BOS is <s> and EOS </s>.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMAND_R_ACTIONS", "COMMAND_R_BASICS", "COMMAND_R_TASK", "PROMPTS", "Prompts"]


class Prompts(NamedTuple):
    """The prompts of one format, each with the start of an answer."""

    user: str
    system_user: str
    turns: str
    start: str  # of an answer; "" where the user's message ends with it


_BAR, _BLANK = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"
_D_USER, _D_ASSISTANT = f"<{_BAR}User{_BAR}>", f"<{_BAR}Assistant{_BAR}>"
_D_END = f"<{_BAR}end{_BLANK}of{_BLANK}sentence{_BAR}>"
_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

PROMPTS = {
    "chatml": Prompts(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe terse.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe terse.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>assistant\n",
    ),
    "alpaca": Prompts(
        f"{_ALPACA}\n\n### Instruction:\nHi\n\n### Response:\n",
        "Be terse.\n\n### Instruction:\nHi\n\n### Response:\n",
        "Be terse.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>"
        "### Instruction:\nBye\n\n### Response:\n",
        "### Response:\n",
    ),
    "vicuna": Prompts(
        f"{_VICUNA} USER: Hi ASSISTANT:",
        "Be terse. USER: Hi ASSISTANT:",
        "Be terse. USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:",
        "ASSISTANT:",
    ),
    "zephyr": Prompts(
        "<|user|>\nHi</s>\n<|assistant|>\n",
        "<|system|>\nBe terse.</s>\n<|user|>\nHi</s>\n<|assistant|>\n",
        "<|system|>\nBe terse.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n"
        "<|user|>\nBye</s>\n<|assistant|>\n",
        "<|assistant|>\n",
    ),
    "llama-2": Prompts(
        "<s>[INST] Hi [/INST]",
        "<s>[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\nHi [/INST]",
        "<s>[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]",
        "",
    ),
    "llama-3": Prompts(
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral-v1": Prompts(
        "<s> [INST] Hi [/INST]",
        "<s> [INST] Be terse.\n\nHi [/INST]",
        "<s> [INST] Be terse.\n\nHi [/INST] Hello.</s> [INST] Bye [/INST]",
        "",
    ),
    "mistral-v3": Prompts(
        "<s>[INST] Hi[/INST]",
        "<s>[INST] Be terse.\n\nHi[/INST]",
        "<s>[INST] Hi[/INST] Hello.</s>[INST] Be terse.\n\nBye[/INST]",
        "",
    ),
    "mistral-v7": Prompts(
        "<s>[INST] Hi[/INST]",
        "<s>[SYSTEM_PROMPT] Be terse.[/SYSTEM_PROMPT][INST] Hi[/INST]",
        "<s>[SYSTEM_PROMPT] Be terse.[/SYSTEM_PROMPT][INST] Hi[/INST] Hello.</s>[INST] Bye[/INST]",
        "",
    ),
    "gemma": Prompts(
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<s><start_of_turn>user\nBe terse.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<s><start_of_turn>user\nBe terse.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        "<start_of_turn>model\n",
    ),
    "phi-3": Prompts(
        "<|user|>\nHi<|end|>\n<|assistant|>\n",
        "<|system|>\nBe terse.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
        "<|system|>\nBe terse.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n",
        "<|assistant|>\n",
    ),
    "command-r": Prompts(
        "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be terse.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be terse.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "deepseek": Prompts(
        f"<s>{_D_USER}Hi{_D_ASSISTANT}",
        f"<s>Be terse.{_D_USER}Hi{_D_ASSISTANT}",
        f"<s>Be terse.{_D_USER}Hi{_D_ASSISTANT}Hello.{_D_END}{_D_USER}Bye{_D_ASSISTANT}",
        _D_ASSISTANT,
    ),
    "openchat": Prompts(
        "<s>GPT4 Correct User: Hi<|end_of_turn|>GPT4 Correct Assistant:",
        "<s>Be terse.<|end_of_turn|>GPT4 Correct User: Hi<|end_of_turn|>GPT4 Correct Assistant:",
        "<s>Be terse.<|end_of_turn|>GPT4 Correct User: Hi<|end_of_turn|>"
        "GPT4 Correct Assistant: Hello.<|end_of_turn|>"
        "GPT4 Correct User: Bye<|end_of_turn|>GPT4 Correct Assistant:",
        "GPT4 Correct Assistant:",
    ),
}

# What Cohere writes around the tools of a Command R prompt.
COMMAND_R_BASICS = (
    "# Safety Preamble\n"
    "The instructions in this section override those in the task description and style guide "
    "sections. Don't answer questions that are harmful or immoral.\n\n"
    "# System Preamble\n## Basic Rules\n"
    "You are a powerful conversational AI trained by Cohere to help people. You are augmented by "
    "a number of tools, and your job is to use and consume the output of these tools to best help "
    "the user. You will see a conversation history between yourself and a user, ending with an "
    "utterance from the user. You will then see a specific instruction instructing you what "
    "kind of response to generate. When you answer the user's requests, you cite your sources in "
    "your answers, according to those instructions.\n\n"
    "# User Preamble\n"
)
COMMAND_R_TASK = (
    "## Task and Context\n"
    "You help people answer their questions and other requests interactively. You will be asked a "
    "very wide array of requests on all kinds of topics. You will be equipped with a wide range "
    "of search engines or similar tools to help you, which you use to research your answer. You "
    "should focus on serving the user's needs as best you can, which will be wide-ranging.\n\n"
    "## Style Guide\n"
    "Unless the user asks for a different style of answer, you should answer in full sentences, "
    "using proper grammar and spelling."
)
COMMAND_R_ACTIONS = (
    "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Write 'Action:' followed by a json-formatted list of "
    "actions that you want to perform in order to produce a good response to the user's last "
    "input. You can use any of the supplied tools any number of times, but you should aim to "
    "execute the minimum number of necessary actions for the input. You should use the "
    "`directly-answer` tool if calling the other tools is unnecessary. The list of actions you "
    "want to call should be "
    "formatted as a list of json objects, for example:\n```json\n[\n    {\n"
    '        "tool_name": title of the tool in the specification,\n'
    '        "parameters": a dict of parameters to input into the tool as they are defined in the '
    "specs, or {} if it takes no parameters\n    }\n]```<|END_OF_TURN_TOKEN|>"
)
