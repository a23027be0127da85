"""The page that the server has at /, used in a real browser against the real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from llamacffi import Model
from llamacffi.server import Settings
from llamacffi.server.settings import PAGE
from tests.browser import ChatPage, chat_page, piece
from tests.servers import engine_of, eventually, serving

CAPITAL = "What is the capital of France?"
TALE = "Tell me a long tale about a dragon, a king and the sea."


@pytest.fixture
def greedy(browser: Browser, page_url: str) -> Iterator[ChatPage]:
    """The page, set to the same answers every time."""
    stored = [{"name": "llamacffi.parameters", "value": '{"temperature": 0}'}]
    state: Any = {"origins": [{"origin": page_url, "localStorage": stored}]}
    with chat_page(browser, page_url, storage_state=state) as page:
        yield page


def running(url: str) -> float:
    """How many answers the server computes."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    values = [line for line in lines if line.startswith("llamacffi_engine_n_running{")]
    return sum(float(line.split()[-1]) for line in values)


# -- files ----------------------------------------------------------------------------------------


def test_every_file_is_served_with_a_strict_policy_and_revalidated(page_url: str) -> None:
    files = [file for file in PAGE.rglob("*") if file.is_file()]
    assert len(files) > 10
    for path in ["", *(file.relative_to(PAGE).as_posix() for file in files)]:
        answer = httpx.get(f"{page_url}/{path}")
        policies = answer.headers.get_list("content-security-policy")
        assert any(
            "default-src 'none'" in policy and "unsafe" not in policy for policy in policies
        ), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
        again = httpx.get(f"{page_url}/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (answer.status_code, again.status_code) == (200, 304), path
    assert httpx.get(f"{page_url}/main.js").headers["content-type"].startswith("text/javascript")
    assert httpx.get(f"{page_url}/%2e%2e/app.py").status_code == 404


def test_what_is_not_there_is_an_error_in_the_shape_of_the_others(page_url: str) -> None:
    assert httpx.get(f"{page_url}/nothing.js").json()["error"]["code"] == "not_found"


# -- answers --------------------------------------------------------------------------------------


def test_an_answer_streams_and_is_there_after_a_reload(greedy: ChatPage) -> None:
    page = greedy.page
    page.evaluate(
        """() => { window.said = [];
        const announcer = document.getElementById("announcer");
        new MutationObserver(() => said.push(announcer.textContent))
            .observe(announcer, {childList: true}) }"""
    )
    greedy.send(TALE)
    first = greedy.grown(20)
    assert greedy.grown(len(first) + 20).startswith(first.rstrip()[:20])
    greedy.button("Stop").click()
    greedy.button("Send").wait_for()
    answer = greedy.ask(CAPITAL)
    assert greedy.stored()[0]["messages"][3]["content"] == greedy.sent(0)
    # A screen reader gets beginnings and ends, and no token in between.
    assert page.evaluate("said") == ["Answering.", "Stopped.", "Answering.", answer]
    page.reload()
    assert greedy.answer.inner_text() == answer
    assert greedy.messages.count() == 4
    assert greedy.conversations.all_inner_texts() == [TALE]


def test_stopping_keeps_the_text_and_frees_the_server(greedy: ChatPage) -> None:
    greedy.send(TALE)
    greedy.grown(20)
    assert running(greedy.url) == 1
    greedy.text.press("Escape")
    text = greedy.finished()
    eventually(lambda: running(greedy.url) == 0, 5)
    expect(greedy.messages.last).to_contain_text("stopped")
    greedy.reload()
    assert greedy.answer.inner_text() == text


def test_a_page_that_is_closed_in_mid_answer_keeps_what_came(greedy: ChatPage) -> None:
    greedy.send(TALE)
    greedy.grown(60)
    greedy.page.wait_for_timeout(1200)  # it is stored once a second
    greedy.reload()
    eventually(lambda: running(greedy.url) == 0, 5)
    assert len(greedy.answer.inner_text()) > 20
    expect(greedy.messages.last).to_contain_text("stopped")
    expect(greedy.button("Regenerate")).to_be_visible()


def test_regenerating_asks_the_same_again(page: ChatPage) -> None:
    page.set(max_tokens=5)
    page.ask(CAPITAL)
    page.button("Regenerate").click()
    page.finished()
    assert page.bodies[0] == page.bodies[1]
    assert page.messages.count() == 2
    assert page.stored()[0]["messages"][1]["content"] == page.sent(1)


def test_editing_a_question_replaces_what_follows(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("one")
    page.ask("two")
    page.button("Edit", page.messages.nth(0)).click()
    box = page.page.get_by_role("textbox", name="Text of the message")
    expect(box).to_be_focused()
    expect(page.messages.nth(0)).to_contain_text("replaces everything after")
    box.fill("uno")
    box.press("Enter")
    page.finished()
    assert page.bodies[-1]["messages"] == [{"role": "user", "content": "uno"}]
    assert page.messages.count() == 2
    page.button("Edit", page.messages.nth(1)).click()
    box.fill("perfect")
    page.button("Save").click()
    page.ask("two")
    assert page.bodies[-1]["messages"][1] == {"role": "assistant", "content": "perfect"}


def test_an_edited_question_can_go_into_a_branch(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("one")
    page.ask("two")
    page.button("Edit", page.messages.nth(2)).click()
    page.page.get_by_role("textbox", name="Text of the message").fill("due")
    page.button("Send in a new conversation").click()
    page.finished()
    assert [m["content"] for m in page.bodies[-1]["messages"]] == ["one", "fine", "due"]
    assert page.conversations.all_inner_texts() == ["Branch of one", "one"]
    page.conversations.nth(1).click()
    assert page.messages.count() == 4
    page.button("Branch into a new conversation", page.messages.nth(1)).click()
    assert page.messages.count() == 2


def test_parameters_reach_the_request(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("plain")
    assert set(page.bodies[0]) == {"model", "messages", "stream", "stream_options"}
    page.button("Settings").click()
    settings = page.page.get_by_role("dialog", name="Settings")
    values = {
        "System prompt": "Be terse.", "Temperature": "0.25", "Top p": "0.5", "Top k": "7",
        "Min p": "0.125", "Presence penalty": "-1", "Frequency penalty": "0.75",
        "Most tokens": "12", "Seed": "0",
    }  # fmt: skip
    for name, value in values.items():
        settings.get_by_label(name, exact=True).fill(value)
    settings.get_by_label("Thoughts").select_option("None")
    settings.get_by_label("Seed").press("Enter")
    expect(settings).to_be_hidden()
    page.ask("set")
    body = page.bodies[1]
    assert body["messages"][0] == {"role": "system", "content": "Be terse."}
    given = {name: value for name, value in body.items() if name not in page.bodies[0]}
    assert given == {
        "temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "presence_penalty": -1,
        "frequency_penalty": 0.75, "max_tokens": 12, "seed": 0, "reasoning_effort": "none",
    }  # fmt: skip


def test_the_server_takes_all_parameters(page: ChatPage) -> None:
    page.set(
        system="Be terse.", temperature=0.25, top_p=0.5, top_k=7, min_p=0.125, presence_penalty=-1,
        frequency_penalty=0.75, max_tokens=3, seed=0, reasoning_effort="none",
    )  # fmt: skip
    page.ask(CAPITAL)
    expect(page.messages.last).to_contain_text("cut at the most tokens · 3 tokens")


def test_the_model_is_picked(page: ChatPage) -> None:
    models = {"data": [{"id": "small"}, {"id": "large"}]}
    page.page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.answer_with_text("fine")
    page.reload()
    picker = page.page.get_by_role("combobox", name="Model")
    expect(picker).to_have_value("small")
    picker.select_option("large")
    page.ask("one")
    assert page.bodies[-1]["model"] == "large"
    page.reload()
    expect(picker).to_have_value("large")


# -- conversations --------------------------------------------------------------------------------


def test_a_conversation_goes_on_in_the_background(greedy: ChatPage) -> None:
    greedy.send(TALE)
    greedy.grown(20)
    greedy.prefer(max_tokens=8)
    greedy.text.press("Control+k")
    assert greedy.messages.count() == 0
    short = greedy.ask(CAPITAL)
    assert greedy.conversations.nth(1).inner_text().startswith(TALE[:20])
    expect(greedy.conversations.nth(1)).to_contain_text("(answering)")
    greedy.conversations.nth(1).get_by_role("button").click()
    tale = greedy.grown(40)
    greedy.button("Stop").click()
    assert greedy.finished().startswith(tale[:40])
    assert greedy.messages.count() == 2
    greedy.page.keyboard.press("Alt+ArrowDown")
    assert greedy.answer.inner_text() == short
    assert greedy.messages.count() == 2
    newer, older = greedy.stored()
    assert newer["messages"][1]["content"] == greedy.sent(0)
    assert older["messages"][1]["content"].startswith(tale[:20])
    assert [len(body["messages"]) for body in greedy.bodies] == [1, 1]


def test_what_is_typed_stays_with_its_conversation(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("one")
    page.text.fill("half a ques")
    page.button("New conversation").click()
    expect(page.text).to_have_value("")
    page.text.fill("another")
    page.conversations.nth(0).get_by_role("button").click()
    expect(page.text).to_have_value("half a ques")
    page.button("New conversation").click()
    expect(page.text).to_have_value("another")


def test_conversations_are_renamed_and_deleted(page: ChatPage) -> None:
    page.answer_with_text("fine")
    page.ask("one")
    page.button("Rename the conversation").click()
    dialog = page.page.get_by_role("dialog", name="Rename the conversation")
    dialog.get_by_label("Title").fill("Numbers")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("heading", level=1)).to_have_text("Numbers")
    page.reload()
    assert page.conversations.all_inner_texts() == ["Numbers"]
    page.button("Delete the conversation").click()
    dialog = page.page.get_by_role("dialog", name="Delete the conversation?")
    expect(page.button("Cancel", dialog)).to_be_focused()
    page.page.keyboard.press("Escape")
    expect(page.conversations).to_have_count(1)
    page.button("Delete the conversation").click()
    page.button("Delete", dialog).click()
    expect(page.conversations).to_have_count(0)
    expect(page.text).to_be_focused()
    page.reload()
    page.text.wait_for()
    expect(page.conversations).to_have_count(0)


def test_one_that_is_deleted_while_it_is_answered_stays_away(greedy: ChatPage) -> None:
    greedy.send(TALE)
    greedy.grown(10)
    greedy.button("Delete the conversation").click()
    greedy.button("Delete").click()
    eventually(lambda: running(greedy.url) == 0, 5)
    greedy.reload()
    expect(greedy.conversations).to_have_count(0)


def test_conversations_are_exported_and_imported(
    page: ChatPage, browser: Browser, tmp_path: Path
) -> None:
    page.answer_with_text("fine **indeed**")
    page.ask("one")
    page.button("New conversation").click()
    page.ask("two")
    with page.page.expect_download() as download:
        page.button("Export").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert len(json.loads(file.read_text(encoding="utf-8"))["conversations"]) == 2
    with chat_page(browser, page.url) as other:
        for times in range(2):
            other.page.locator("#import-file").set_input_files(file)
            said = "2 conversations have" if times == 0 else "0 conversations have"
            expect(other.page.get_by_role("alert")).to_contain_text(said)
        assert other.conversations.all_inner_texts() == ["two", "one"]
        other.conversations.nth(1).get_by_role("button").click()
        expect(other.answer).to_have_text("fine indeed")
        file.write_text('{"conversations": 5}', encoding="utf-8")
        other.page.locator("#import-file").set_input_files(file)
        expect(other.page.get_by_role("alert")).to_contain_text("no exported conversations")


def test_another_tab_hears_of_changes(page: ChatPage) -> None:
    other = page.page.context.new_page()
    other.goto(page.url)
    page.answer_with_text("fine")
    page.ask("one")
    expect(other.get_by_role("navigation").get_by_role("listitem")).to_have_text("one")
    other.get_by_role("navigation").get_by_role("listitem").get_by_role("button").click()
    expect(other.locator("#messages > li.assistant > .text")).to_have_text("fine")
    page.ask("two")
    expect(other.locator("#messages > li")).to_have_count(4)


def test_a_browser_that_stores_nothing_is_told_so_and_works(page: ChatPage) -> None:
    page.page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage", "indexedDB"])
            Object.defineProperty(window, name, { get() { throw new Error("blocked") } })"""
    )
    page.reload()
    expect(page.page.get_by_role("alert")).to_contain_text("are not kept")
    page.answer_with_text("fine")
    page.ask("one")
    page.button("Dark colours").click()
    page.text.press("Control+k")
    page.conversations.nth(0).get_by_role("button").click()
    expect(page.answer).to_have_text("fine")


# -- keys of the API, errors ----------------------------------------------------------------------


@pytest.fixture
def guarded(tiny_falcon: Model) -> Iterator[str]:
    engine = engine_of(tiny_falcon, n_ctx=256, chat_format="chatml")
    with serving(engine, Settings(api_keys=("secret",))) as server:
        yield server.url


@pytest.mark.parametrize("keep", [False, True])
def test_a_server_with_keys_asks_for_one(browser: Browser, guarded: str, keep: bool) -> None:
    context = browser.new_context()
    page = ChatPage(context.new_page(), guarded, expected="401")
    page.page.goto(guarded)
    dialog = page.page.get_by_role("dialog", name="API key")
    for key in ("wrong", "secret"):
        dialog.get_by_label("API key").fill(key)
        dialog.get_by_role("checkbox").set_checked(keep)
        page.page.keyboard.press("Enter")
    page.page.locator("#model option").first.wait_for(state="attached")
    expect(dialog).to_be_hidden()
    page.reload()
    page.page.locator("#model option").first.wait_for(state="attached")
    stored = page.page.evaluate("[sessionStorage, localStorage].map(s => s['llamacffi.key'])")
    assert stored == ([None, "secret"] if keep else ["secret", None])
    page.check()
    context.close()


def test_a_key_that_is_refused_later_is_asked_for_and_the_answer_retried(page: ChatPage) -> None:
    page.expected = "401"
    page.answer_with('{"error": {"message": "Incorrect API key provided."}}', 401)
    page.send("one")
    dialog = page.page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("Incorrect API key provided.")
    page.answer_with_text("fine")
    dialog.get_by_label("API key").fill("secret")
    page.page.keyboard.press("Enter")
    expect(page.answer).to_have_text("fine")
    assert page.messages.count() == 2


FAILURES: dict[str, tuple[Any, int, str]] = {
    "status": ('{"error": {"message": "Too many requests wait."}}', 503, "Too many requests wait."),
    "proxy": ("<html>Bad gateway</html>", 502, "The server answered with status 502."),
    "stream": ([piece(content="a"), {"error": {"message": "Lost."}}], 200, "Lost."),
    "end": ('data: {"choices": []}\n\n', 200, "The connection ended in the middle of the answer."),
}


def test_an_error_is_shown_and_can_be_retried(page: ChatPage) -> None:
    page.expected = "status of 50[23]"
    for name, (body, status, message) in FAILURES.items():
        page.answer_with(body, status)
        page.send(name)
        expect(page.messages.last).to_contain_text(message)
        expect(page.page.get_by_role("status")).to_have_text(message)
        page.answer_with_text(f"fine {name}")
        page.button("Retry").click()
        expect(page.answer).to_have_text(f"fine {name}")
        assert page.bodies[-1] == page.bodies[-2]
    assert page.messages.count() == 2 * len(FAILURES)


def test_a_server_that_is_gone_is_named(page: ChatPage) -> None:
    page.expected = "ERR_"
    page.page.route("**/v1/*", lambda route: route.abort())
    page.page.route("**/v1/chat/*", lambda route: route.abort())
    page.send("one")
    expect(page.messages.last).to_contain_text("The server does not answer.")
    page.page.reload()
    expect(page.page.get_by_role("alert")).to_contain_text("The server does not answer.")
    page.page.unroute_all()
    page.button("Try again").click()
    page.page.locator("#model option").first.wait_for(state="attached")


def test_thoughts_and_calls_are_shown_apart(page: ChatPage) -> None:
    called = {"index": 0, "function": {"name": "weather", "arguments": '{"city": '}}
    more = {"index": 0, "function": {"arguments": '"Rome"}'}}
    page.answer_with(
        [
            piece(reasoning_content="Hm, "), piece(reasoning_content="Rome."), piece(content="So."),
            piece(tool_calls=[called]), piece(tool_calls=[more]), piece("tool_calls"),
        ]
    )  # fmt: skip
    assert page.ask("weather?") == "So."
    thoughts = page.page.get_by_text("Hm, Rome.")
    expect(thoughts).to_be_hidden()
    page.messages.last.get_by_text("Thoughts", exact=True).click()
    expect(thoughts).to_be_visible()
    expect(page.page.get_by_text('weather({"city": "Rome"})')).to_be_visible()
    page.ask("and?")
    assert page.bodies[-1]["messages"][1] == {"role": "assistant", "content": "So."}
