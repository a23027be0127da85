"""The input line of a chat on a terminal, with prompt_toolkit: only imported where it is used."""

from __future__ import annotations

from collections.abc import Iterable

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from llamacffi.cli.chat_commands import COMMANDS
from llamacffi.cli.chat_terminal import MORE, PROMPT, Terminal
from llamacffi.cli.sampling import PARAMETERS

__all__ = ["PromptTerminal"]


class PromptTerminal(Terminal):
    """As `Terminal`, with several lines, a history that is kept, completion and a status line."""

    def __init__(self) -> None:
        super().__init__()
        self._status = ""
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=MORE,
            history=self._history(),
            completer=_Commands(),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            key_bindings=_keys(),
            enable_open_in_editor=True,
            bottom_toolbar=lambda: self._status,
        )

    def read(self, status: str, text: str = "") -> str | None:
        """Ask for a text of one or more lines."""
        self._status = status
        try:
            return self._session.prompt(default=text)
        except EOFError:
            return None

    def _history(self) -> History:
        path = user_state_path("llamacffi") / "chat_history"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with path.open("ab"):
                pass
        except OSError as error:
            self.say(f"The history of questions is not kept: {error}.")
            return InMemoryHistory()
        return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def accept(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    @keys.add("<sigint>")
    def leave_line(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys


class _Commands(Completer):
    """The commands, and what can follow them."""

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if not before.startswith("/"):
            return
        name, space, rest = before.partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    yield Completion(
                        command.name,
                        -len(name),
                        display_meta=command.help,
                        display=f"{command.name} {command.argument}",
                    )
        elif name in COMMANDS and COMMANDS[name].path:
            paths = PathCompleter(expanduser=True)
            yield from paths.get_completions(Document(rest.lstrip()), event)
        elif name == "/set" and " " not in rest:
            yield from (Completion(p, -len(rest)) for p in PARAMETERS if p.startswith(rest))
