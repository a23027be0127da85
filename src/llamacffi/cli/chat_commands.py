"""What can be said to the chat itself: lines that begin with a slash."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamacffi.chat.session_file import MAGIC
from llamacffi.cli.sampling import changed
from llamacffi.errors import ParameterError
from llamacffi.sampling.params import DEFAULTS
from llamacffi.templates import templates
from llamacffi.templates.messages import text_of

if TYPE_CHECKING:
    from llamacffi.cli.chat_loop import Chat

__all__ = ["COMMANDS", "Command", "run_command"]


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        name: With its slash.
        argument: What can follow, as `/help` shows it.
        help: What it does.
        run: Does it; gets the chat and the text behind the name.
        path: Whether the argument is a file.
    """

    name: str
    argument: str
    help: str
    run: Callable[[Chat, str], None]
    path: bool = False


def run_command(chat: Chat, line: str) -> None:
    """Do what a line says that begins with a slash.

    Raises:
        ParameterError: There is no such command; the message lists those that look like it.
        LlamaCffiError, OSError: It failed.
    """
    name, *rest = line.split(maxsplit=1)
    command = COMMANDS.get(name)
    if command is None:
        near = [known for known in COMMANDS if known.startswith(name)]
        near += [n for n in difflib.get_close_matches(name, COMMANDS) if n not in near]
        hint = f"Did you mean {' or '.join(near)}?" if near else "/help lists the commands."
        raise ParameterError(
            f"There is no command {name}. {hint} To say it to the model, begin with two slashes."
        )
    argument = rest[0].strip() if rest else ""
    if argument and not command.argument:
        raise ParameterError(f"{name} takes nothing behind it, but got {argument!r:.60}.")
    command.run(chat, argument)


# -- the answers ----------------------------------------------------------------------------------


def _regenerate(chat: Chat, _: str) -> None:
    chat.answer(lambda: chat.session.stream_again())


def _edit(chat: Chat, argument: str) -> None:
    messages = chat.session.messages
    match = re.match(r"(\d+)(?:\s+|$)", argument)
    if match:
        index, text = int(match[1]) - 1, argument[match.end() :]
        if not 0 <= index < len(messages):
            raise ParameterError(f"There is no message {match[1]}. /history numbers them.")
    else:
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if not users:
            raise ParameterError("There is no message to edit: ask something.")
        index, text = users[-1], argument
    if not text:
        if not chat.front.interactive:
            raise ParameterError("/edit needs the new text here: /edit [N] TEXT.")
        read = chat.front.read(chat.status, text_of(messages[index].get("content")))
        if not read or not read.strip():
            chat.front.say("Nothing was changed.")
            return
        text = read
    if messages[index]["role"] != "user":
        chat.session.edit(index, text)
        chat.stats = None
        chat.front.say(f"Message {index + 1} was changed.")
        return

    def again() -> Iterator[str]:
        chat.replace(messages[:index])
        return chat.session.stream({**messages[index], "content": text})

    chat.answer(again)


def _rewind(chat: Chat, argument: str) -> None:
    if argument and not argument.isdecimal():
        raise ParameterError(f"/rewind {argument:.60}: give the number of turns to take back.")
    chat.session.rewind(int(argument or 1))
    chat.stats = None
    chat.front.say(f"{len(chat.session.messages)} messages are left.")


def _clear(chat: Chat, _: str) -> None:
    chat.replace([m for m in chat.session.messages[:1] if m["role"] == "system"])
    chat.front.say("The history is empty.")


# -- settings -------------------------------------------------------------------------------------


def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.session.system = None if argument == "-" else argument
        chat.stats = None
    system = chat.session.system
    chat.front.say("There is no system message." if system is None else f"System: {system}")


def _template(chat: Chat, _: str) -> None:
    chat.front.say(f"Template: {chat.session.template.name}")
    chat.front.say(f"To be chosen with --template: {', '.join(templates())}, a file, Jinja text.")


def _set(chat: Chat, argument: str) -> None:
    session = chat.session
    if argument:
        name, value, *more = [*re.split(r"[\s=]+", argument), ""]
        if not value or more[1:]:
            raise ParameterError(f"/set {argument:.60}: write as /set temperature 0.5.")
        sampling = changed(session.sampling, name, value)
        sampling.chain(session.model).close()  # refuses what is out of range
        session.sampling = sampling
    unusual = []
    for name in (field.name for field in dataclasses.fields(DEFAULTS)):
        value, default = getattr(session.sampling, name), getattr(DEFAULTS, name)
        # What was loaded from a file has lists in place of tuples.
        if value != default and (not isinstance(value, list) or value != list(default)):
            unusual.append(f"{name}={value!r:.60}")
    chat.front.say(f"Sampling: {', '.join(unusual) or 'all at their defaults'}")


# -- files ----------------------------------------------------------------------------------------


def _file(name: str, argument: str) -> Path:
    if not argument:
        raise ParameterError(f"{name} needs a file: {name} FILE.")
    return Path(argument).expanduser()


def _save(chat: Chat, argument: str) -> None:
    path = _file("/save", argument)
    if path.exists():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ParameterError(f"{path} exists and is no saved chat: choose another name.")
    chat.session.save(path)
    size = path.stat().st_size / 1e6
    chat.front.say(f"Saved {len(chat.session.messages)} messages to {path} ({size:.1f} MB).")


def _load(chat: Chat, argument: str) -> None:
    path = _file("/load", argument)
    chat.load(path)
    chat.front.say(f"Loaded {len(chat.session.messages)} messages from {path}.")


# -- to be read -----------------------------------------------------------------------------------


def _history(chat: Chat, _: str) -> None:
    messages = chat.session.messages
    for number, message in enumerate(messages, 1):
        chat.front.say(f"{number} {message['role']}: {text_of(message.get('content'))}")
    if not messages:
        chat.front.say("The history is empty.")


def _stats(chat: Chat, _: str) -> None:
    if chat.stats is None:
        chat.front.say(f"{chat.status}: nothing was answered since the history changed.")
        return
    usage = chat.stats.usage
    chat.front.say(
        f"Prompt {usage.prompt_tokens} tokens, of which {usage.cached_tokens} were in memory; "
        f"answer {usage.completion_tokens} tokens; {usage.total_tokens} of "
        f"{chat.context.n_ctx_seq} tokens used. {chat.stats}."
    )


def _help(chat: Chat, _: str) -> None:
    shown = {f"{command.name} {command.argument}": command.help for command in COMMANDS.values()}
    width = max(map(len, shown))
    for usage, text in shown.items():
        chat.front.say(f"{usage:{width}}  {text}")
    chat.front.say("A question that begins with a slash: begin with two.")


def _exit(chat: Chat, _: str) -> None:
    chat.done = True


COMMANDS = {
    command.name: command
    for command in (
        Command("/help", "", "List the commands.", _help),
        Command("/regenerate", "", "Answer the last question again.", _regenerate),
        Command("/edit", "[N] [TEXT]", "Change the last question, or message N.", _edit),
        Command("/rewind", "[N]", "Take back the last turn, or the last N.", _rewind),
        Command("/system", "[TEXT]", "Show or set the system message; - for none.", _system),
        Command("/set", "[NAME VALUE]", "Show or set sampling: /set temperature 0.5.", _set),
        Command("/template", "", "Show what the prompts are made with.", _template),
        Command("/history", "", "Show the messages, with their numbers.", _history),
        Command("/clear", "", "Empty the history; the system message stays.", _clear),
        Command("/save", "FILE", "Save the chat, and what the model remembers.", _save, path=True),
        Command("/load", "FILE", "Go on with a saved chat.", _load, path=True),
        Command("/stats", "", "Show the tokens and the speed of the last answer.", _stats),
        Command("/exit", "", "Leave.", _exit),
    )
}
