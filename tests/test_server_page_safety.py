"""The server's page: hostile texts, keys only, screen readers, colours, small screens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser import ChatPage, chat_page, piece

SECONDS_MAX = 5.0
MARKDOWN = """# Title

A *b* **c** `d*e*` ~~f~~ snake_case_name 2 * 3 * 4 \\*g\\* <b>h</b>
next [i](https://example.org/j_(k)) https://example.org/l.

1. one
   - inner
     deeper

   ```py
   x = "<script>"
   ```
2. two

> quoted
> > twice

| m | n |
|---|:-:|
| o | p |

- - -
```
unclosed *q*"""
HTML = (
    '<h3>Title</h3>'
    '<p>A <em>b</em> <strong>c</strong> <code>d*e*</code> <del>f</del> snake_case_name 2 * 3 * 4 '
    '*g* &lt;b&gt;h&lt;/b&gt;\nnext <a href="https://example.org/j_(k)">i</a> '
    '<a href="https://example.org/l">https://example.org/l</a>.</p>'
    '<ol><li><p>one</p><ul><li><p>inner\ndeeper</p></li></ul>'
    '<div><div><span>py</span><button></button></div>'
    '<pre><code>x = "&lt;script&gt;"</code></pre></div></li><li><p>two</p></li></ol>'
    '<blockquote><p>quoted</p><blockquote><p>twice</p></blockquote></blockquote>'
    '<div><table><thead><tr><th>m</th><th>n</th></tr></thead>'
    '<tbody><tr><td>o</td><td>p</td></tr></tbody></table></div>'
    '<hr><div><div><span></span><button></button></div><pre><code>unclosed *q*</code></pre></div>'
)  # fmt: skip
# Without what is not Markdown's: classes, labels, icons.
BARE = """(element) => {
    const copy = element.cloneNode(true);
    for (const svg of copy.querySelectorAll("svg")) svg.remove();
    for (const node of copy.querySelectorAll("*"))
        for (const name of node.getAttributeNames())
            if (name !== "href") node.removeAttribute(name);
    return copy.innerHTML;
}"""
HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "<svg onload=\"document.title = 'owned'\">",
    "<iframe srcdoc=\"<script>parent.document.title = 'owned'</script>\"></iframe>",
    "<style>@import 'https://example.org/style.css'</style>",
    "[click](javascript:document.title='owned') [click](JaVaScRiPt:alert)",
    "[click](&#106;avascript:alert) [click](java\nscript:alert) [click](\x01javascript:alert)",
    "[click](data:text/html,<script>1</script>) [click](vbscript:x) [click](file:///etc/passwd)",
    "[click](\tjavascript:alert) [click](//example.org/x) [c](https:javascript:alert)",
    "![image](https://example.org/pixel.png) ![image](javascript:alert)",
    "```<img src=x onerror=alert>\n</code></pre><img src=x onerror=\"document.title=1\">\n```",
    "| <img src=x onerror=alert> |\n|---|\n| <script>1</script> |",
    "[<img src=x onerror=alert>](https://example.org/\"onclick=\"alert)",
    "https://example.org/\"onmouseover=\"alert",
    "# <img src=x onerror=alert>\n> <script>1</script>\n- <iframe src=javascript:alert>",
]  # fmt: skip
SLOW = {
    "stars": "*a " * 30_000, "pairs": "**a _b " * 15_000, "brackets": "[" * 100_000,
    "links": "[a](" * 25_000, "images": "![" * 50_000, "ticks": "`" * 50_000 + " `` ` " * 9_000,
    "quotes": "> " * 50_000, "items": "- " * 50_000, "rule": "- " * 50_000 + "x",
    "deep": "\n".join(" " * indent + "- a" for indent in range(400)),
    "pipes": "|" * 50_000 + "\n" + "|-" * 50_000, "table": "|a\n|-\n" + "|b" * 50_000,
    "spaces": "#" + " " * 100_000 + "#", "fences": "```\n" * 20_000, "lines": "a\n" * 50_000,
    "underscores": "_" * 100_000, "parens": "[a](" + "(" * 100_000,
    "addresses": "https://" * 12_000, "escapes": "\\*" * 50_000,
}  # fmt: skip


def elements_that_do_something(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("#messages *, #conversations *")].filter((node) =>
        /^(SCRIPT|IMG|IFRAME|STYLE|OBJECT|EMBED|LINK|FORM)$/.test(node.tagName)
        || node.getAttributeNames().some((name) => name.startsWith("on"))
        || (node.href !== undefined && !/^(https?|mailto):/.test(node.href?.baseVal ?? node.href)
            && !node.closest("svg"))).map((node) => node.outerHTML)"""
    )
    return found


# -- texts ----------------------------------------------------------------------------------------


def test_markdown_becomes_elements(page: ChatPage) -> None:
    page.answer_with_text(MARKDOWN)
    page.ask("one")
    assert page.answer.evaluate(BARE) == HTML


def test_a_text_in_pieces_looks_as_in_one(page: ChatPage) -> None:
    page.answer_with([piece(content=letter) for letter in MARKDOWN])
    page.ask("one")
    assert page.answer.evaluate(BARE) == HTML


def test_what_is_shown_already_is_not_made_again(page: ChatPage) -> None:
    same = page.page.evaluate(
        """async () => {
        const { showMarkdown } = await import("./markdown/blocks.js");
        const box = document.createElement("div");
        showMarkdown(box, "one\\n\\ntw");
        const first = box.firstChild;
        showMarkdown(box, "one\\n\\ntwo **three**");
        return [first === box.firstChild, box.textContent];
        }"""
    )
    assert same == [True, "onetwo three"]


def test_no_text_takes_long(page: ChatPage) -> None:
    seconds = page.page.evaluate(
        """async (texts) => {
        const { showMarkdown } = await import("./markdown/blocks.js");
        return Object.fromEntries(Object.entries(texts).map(([name, text]) => {
            const start = performance.now();
            showMarkdown(document.createElement("div"), text);
            return [name, (performance.now() - start) / 1000];
        }));
        }""",
        SLOW,
    )
    assert {name: taken for name, taken in seconds.items() if taken > SECONDS_MAX} == {}


def test_nothing_hostile_in_an_answer_does_anything(page: ChatPage) -> None:
    page.answer_with(
        [piece(reasoning_content="\n".join(HOSTILE)), piece(content="\n\n".join(HOSTILE))]
    )
    page.ask("\n\n".join(HOSTILE))
    assert elements_that_do_something(page.page) == []
    links = page.answer.get_by_role("link")
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer"
        assert (link.get_attribute("href") or "").startswith("https://example.org/")
    assert page.page.title().startswith("<script>")


def test_nothing_hostile_that_is_stored_does_anything(page: ChatPage, tmp_path: Path) -> None:
    hostile = "\n\n".join(HOSTILE)
    message = {"content": hostile, "reasoning": hostile, "error": hostile, "note": hostile}
    call = {"name": hostile, "arguments": hostile}
    messages: list[Any] = [
        {"role": "user", **message}, {"role": "assistant", "calls": [call, 5, None], **message},
        {"role": "assistant", "status": "failed", **message}, {"role": "<script>"}, None, "x",
        {"role": "user", "content": {"toString": 1}, "calls": "x"},
    ]  # fmt: skip
    good = {"id": "a", "title": HOSTILE[1], "messages": messages, "model": [], "parameters": 5}
    wrong = [{"id": {}, "messages": []}, {"id": "b", "messages": "x"}, None, 5]
    file = tmp_path / "hostile.json"
    file.write_text(json.dumps({"conversations": [good, *wrong]}), encoding="utf-8")
    page.page.locator("#import-file").set_input_files(file)
    page.conversations.get_by_role("button").click()
    page.page.evaluate(
        """for (const name of ["theme", "model", "parameters"])
            localStorage.setItem(`llamacffi.${name}`, "<img src=x onerror=alert>")"""
    )
    page.reload()
    assert page.messages.count() == 4
    assert elements_that_do_something(page.page) == []
    assert page.page.title() == f"{HOSTILE[1]} - llamacffi"


def test_the_policy_would_stop_what_gets_in(page: ChatPage) -> None:
    page.expected = "Content Security Policy|Trusted"
    outcomes = page.page.evaluate(
        """async () => {
        const script = document.createElement("script");
        script.append("document.title = 'owned'");
        try { document.body.append(script) } catch {}
        try { document.body.innerHTML = "<p>x" } catch {}
        return fetch("https://example.org/").catch(() => "refused");
        }"""
    )
    assert outcomes == "refused"
    assert "owned" not in page.page.title()
    expect(page.text).to_be_visible()
    assert any("connect-src" in complaint for complaint in page.complaints)
    page.addresses.clear()


# -- without a mouse ------------------------------------------------------------------------------


def test_everything_can_be_done_with_keys(page: ChatPage) -> None:
    keys = page.page.keyboard
    page.answer_with_text("fine")
    expect(page.text).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    page.finished()
    assert page.bodies[0]["messages"][0]["content"] == "one\ntwo"
    keys.press("ArrowUp")
    keys.press("Control+a")
    keys.type("three")
    keys.press("Escape")
    expect(page.messages.nth(0)).to_contain_text("one")
    expect(page.button("Edit", page.messages.nth(0))).to_be_focused()
    keys.press("Control+k")
    expect(page.text).to_be_focused()
    expect(page.messages).to_have_count(0)
    keys.press("Alt+ArrowDown")
    expect(page.messages).to_have_count(2)
    for key, name in (("Control+/", "Keyboard"), ("Control+,", "Settings")):
        keys.press(key)
        dialog = page.page.get_by_role("dialog", name=name)
        expect(dialog).to_be_visible()
        keys.press("Control+k")  # is for what is behind it
        keys.press("Escape")
        expect(dialog).to_be_hidden()
    expect(page.messages).to_have_count(2)


def test_tab_reaches_every_control(page: ChatPage) -> None:
    page.answer_with_text("```\ncode\n```")
    page.ask("one")
    reached = set()
    for _ in range(40):
        page.page.keyboard.press("Tab")
        reached.add(
            page.page.evaluate(
                "(({ id, ariaLabel, textContent }) => id || ariaLabel || textContent.trim())"
                "(document.activeElement)"
            )
        )
    assert reached >= {
        "new", "one", "export", "import", "theme", "enter-key", "open-help", "model", "rename",
        "delete", "open-settings", "scroller", "Copy", "Edit", "Branch into a new conversation",
        "Copy the code", "Code", "Regenerate", "text", "send",
    }  # fmt: skip


# -- screen readers, colours, small screens -------------------------------------------------------


def test_roles_and_names(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("one")
    expect(page.page.locator("body")).to_match_aria_snapshot("""
        - navigation "Conversations":
          - button "New conversation"
          - list:
            - listitem:
              - button "one"
        - main:
          - heading "one" [level=1]
          - combobox "Model"
          - button "Rename the conversation"
          - button "Delete the conversation"
          - button "Settings"
          - region "Messages":
            - list:
              - listitem:
                - heading "You" [level=2]
                - text: one
              - listitem:
                - heading "Answer" [level=2]
                - paragraph: fine
                - button "Copy"
                - button "Edit"
                - button "Branch into a new conversation"
                - button "Regenerate"
          - textbox "Message"
          - button "Send"
          - status: fine
    """)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, page_url: str, scheme: Any) -> None:
    with chat_page(browser, page_url, color_scheme=scheme, reduced_motion="reduce") as page:
        page.answer_with([piece(reasoning_content="Hm."), piece(content=MARKDOWN), piece("length")])
        page.ask("one")
        page.page.get_by_text("Thoughts", exact=True).last.click()
        page.answer_with("", 500)
        page.expected = "500"
        page.send("two")
        page.button("Retry").wait_for()
        found = [Axe().run(page.page)]
        for name in ("Settings", "Help", "API key", "Delete the conversation"):
            page.button(name).click()
            found.append(Axe().run(page.page))
            page.page.keyboard.press("Escape")
    assert [report for result in found if (report := violations(result))] == []


def violations(result: Any) -> list[str]:
    return [
        f"{found['id']}: {node['html'][:200]}"
        for found in result.response["violations"]
        for node in found["nodes"]
    ]


def test_colours_follow_the_system_until_they_are_chosen(page: ChatPage) -> None:
    def ground() -> Any:
        return page.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light = ground()
    page.page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    toggle = page.button("Dark colours")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    toggle.click()
    assert ground() == light
    page.reload()
    assert ground() == light
    expect(toggle).to_have_attribute("aria-pressed", "false")


def test_a_screen_of_320_pixels(browser: Browser, page_url: str) -> None:
    size: Any = {"width": 320, "height": 560}
    with chat_page(browser, page_url, viewport=size, has_touch=True) as page:
        page.answer_with_text(MARKDOWN + "\n" + "x" * 400)
        page.send("y" * 200)
        page.finished()
        width = "[document.documentElement, document.querySelector('#scroller')]"
        assert page.page.evaluate(f"{width}.map(e => e.scrollWidth <= e.clientWidth)") == [True] * 2
        expect(page.button("New conversation")).to_be_hidden()
        page.button("Conversations").click()
        expect(page.button("New conversation")).to_be_focused()
        page.page.keyboard.press("Escape")
        expect(page.button("Conversations")).to_be_focused()
        page.button("Conversations").click()
        page.button("New conversation").click()
        expect(page.text).to_be_focused()
        expect(page.button("New conversation")).to_be_hidden()
        for name in ("Settings", "Send"):
            box = page.button(name).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 320


def test_no_motion_for_those_who_do_not_want_it(page: ChatPage) -> None:
    page.page.emulate_media(reduced_motion="reduce")
    names = page.page.evaluate(
        """() => {
        const dot = document.createElement("span");
        dot.className = "dot";
        document.body.append(dot);
        return getComputedStyle(dot).animationName;
        }"""
    )
    assert names == "none"
