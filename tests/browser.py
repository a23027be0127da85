"""A real browser for the tests of the server's page, and what a test does with the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, sync_playwright

__all__ = ["ChatPage", "chat_page", "launched", "piece"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000
CHAT = "**/v1/chat/completions"


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium, without a window."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on the PATH: ci/browser installs it as root on Debian")
    with sync_playwright() as playwright:
        # Root has no sandbox; what is shown are our own pages.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a streamed answer."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@dataclass
class ChatPage:
    """The page in a browser of its own, with nothing stored.

    Attributes:
        page: Playwright's.
        url: The address of the server.
        bodies: The bodies of all requests for answers.
        answered: The requests for answers that were answered to the end.
        addresses: What was asked for.
        complaints: Errors, and violations of the policy, that the browser has reported.
        expected: What it may complain of.
    """

    page: Page
    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expected: str | None = None

    def __post_init__(self) -> None:
        self.page.on("request", self._asked)
        self.page.on("requestfinished", self._finished)
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _asked(self, request: Request) -> None:
        self.addresses.append(request.url)
        if request.url.endswith("/v1/chat/completions"):
            self.bodies.append(json.loads(request.post_data or "{}"))

    def _finished(self, request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            self.answered.append(request)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def check(self) -> None:
        """Nothing was asked of anybody else, and nothing went wrong."""
        own = (f"{self.url}/", f"blob:{self.url}/")
        foreign = [address for address in self.addresses if not address.startswith(own)]
        assert not foreign, foreign
        unexpected = [c for c in self.complaints if not re.search(self.expected or "$^", c)]
        assert not unexpected, unexpected

    # -- what is on it --------------------------------------------------------------------------

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name, exact=True)

    @property
    def text(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def messages(self) -> Locator:
        return self.page.get_by_role("region", name="Messages").locator("ol#messages > li")

    @property
    def answer(self) -> Locator:
        """The text of the last answer."""
        return self.messages.last.locator("> .text")

    @property
    def conversations(self) -> Locator:
        return self.page.get_by_role("navigation").get_by_role("listitem")

    def sent(self, number: int) -> str:
        """The text of an answer that came whole, as the server sent it; 0 for the first."""
        for _ in range(200):
            if len(self.answered) > number:
                break
            self.page.wait_for_timeout(20)  # also lets Playwright say what has happened
        response = self.answered[number].response()
        assert response is not None
        lines = re.findall(r"^data: (\{.*)$", response.text(), re.M)
        choices = [choice for line in lines for choice in json.loads(line).get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    # -- what one does with it ------------------------------------------------------------------

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#model option").first.wait_for(state="attached")

    def send(self, text: str) -> None:
        self.text.fill(text)
        self.text.press("Enter")

    def ask(self, text: str) -> str:
        """Send something, and wait for the answer."""
        self.send(text)
        return self.finished()

    def finished(self) -> str:
        self.button("Send").wait_for()
        return self.answer.inner_text()

    def grown(self, length: int) -> str:
        """Wait until the last answer has more characters than this."""
        self.page.wait_for_function(
            "n => [...document.querySelectorAll('#messages > li.assistant > .text')]"
            ".at(-1)?.textContent.length > n",
            arg=length,
        )
        return self.answer.inner_text()

    def prefer(self, **parameters: Any) -> None:
        """Parameters for new conversations, as if they had been set."""
        self.page.evaluate(
            "text => localStorage.setItem('llamacffi.parameters', text)", json.dumps(parameters)
        )

    def set(self, **parameters: Any) -> None:
        """Parameters for the conversation that is shown, where nothing has been sent yet."""
        self.prefer(**parameters)
        self.reload()

    def reload(self) -> None:
        self.page.reload()
        self.page.locator("#model option").first.wait_for(state="attached")

    def stored(self) -> list[dict[str, Any]]:
        """The conversations in the browser's database, the newest first."""
        found: list[dict[str, Any]] = self.page.evaluate(
            """() => new Promise((resolve) => {
            indexedDB.open("llamacffi", 1).onsuccess = ({ target }) => {
                const table = target.result.transaction(["conversations"])
                    .objectStore("conversations");
                table.getAll().onsuccess = ({ target: found }) => {
                    target.result.close();
                    resolve(found.result);
                };
            };
            })"""
        )
        return sorted(found, key=lambda conversation: -conversation["created"])

    def answer_with(self, chunks: Sequence[Any] | str, status: int = 200) -> None:
        """Let the next requests be answered by these chunks, or by this text, not by the server."""
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        if isinstance(chunks, str):
            text = chunks
        self.page.unroute(CHAT)
        self.page.route(
            CHAT,
            lambda route: route.fulfill(status=status, content_type="text/event-stream", body=text),
        )

    def answer_with_text(self, text: str) -> None:
        self.answer_with([piece(role="assistant"), piece(content=text), piece("stop")])


@contextmanager
def chat_page(browser: Browser, url: str, **options: Any) -> Iterator[ChatPage]:
    """The page, opened; afterwards it is checked for requests to elsewhere and for errors."""
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    made = ChatPage(context.new_page(), url)
    try:
        made.open()
        yield made
        made.check()
    finally:
        context.close()
