"""llama.cpp's engine renders upstream's collection of templates as transformers does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from llamacffi.errors import TemplateError
from llamacffi.templates import RenderOptions
from llamacffi.templates.jinja import JinjaTemplate
from tests.adapted_conversations import adapted_messages, adapted_tools
from tests.conversations import CONVERSATIONS, Conversation
from tests.reference_templates import RefusalError, reference_render
from tests.template_differences import ANY, DIFFERENCES

# A conversation without messages is refused before it reaches a template.
COMPARED = [each for each in CONVERSATIONS if each.messages]
BOS, EOS = "<s>", "</s>"


class NoText(Enum):
    """What there is instead of a prompt."""

    REFUSED = "refused with raise_exception"
    BROKEN = "broken off by an error of Python's"


Outcome = str | NoText
Pair = tuple[str, str]


def variables(conversation: Conversation, now: datetime) -> dict[str, Any]:
    """What some templates want besides the usual; Firefunction's want their tools as text."""
    return {
        "datetime": now.strftime("%b %d %Y"),
        "date_string": now.strftime("%d %b %Y"),
        "functions": json.dumps(conversation.tools, indent=2) if conversation.tools else "",
    }


def by_reference(template: JinjaTemplate, conversation: Conversation, now: datetime) -> Outcome:
    """What transformers writes of the conversation as common/chat adapts it.

    Many templates add None or a list to a text, which is an error in Python and not one in the
    engine. Nobody meant either, so what comes of it is not compared.
    """
    capabilities = template.capabilities(RenderOptions(bos_token=BOS, eos_token=EOS))
    try:
        return reference_render(
            template.source,
            adapted_messages(conversation.messages, template.source, capabilities),
            adapted_tools(conversation.tools),
            add_generation_prompt=conversation.add_generation_prompt,
            bos_token=BOS,
            eos_token=EOS,
            now=now,
            **variables(conversation, now),
            **{"enable_thinking": True, **conversation.options},
        )
    except RefusalError:
        return NoText.REFUSED
    except Exception:
        return NoText.BROKEN


def by_engine(template: JinjaTemplate, conversation: Conversation, now: datetime) -> Outcome:
    options = RenderOptions(
        add_generation_prompt=conversation.add_generation_prompt,
        bos_token=BOS,
        eos_token=EOS,
        variables=variables(conversation, now),
        **conversation.options,
    )
    try:
        return template.render(conversation.messages, conversation.tools or (), options).text
    except TemplateError:
        return NoText.REFUSED


def compare(folder: Path) -> Iterator[tuple[Pair, str | None]]:
    """(template, conversation) and how they differ; None where they do not."""
    now = datetime.now()  # the engine asks the clock itself; both write days, not seconds
    for path in sorted(folder.glob("*.jinja")):
        template = JinjaTemplate(path.stem, path.read_text(encoding="utf-8"))
        for conversation in COMPARED:
            wanted = by_reference(template, conversation, now)
            got = by_engine(template, conversation, now)
            if wanted is not NoText.BROKEN:
                how = None if got == wanted else describe(wanted, got)
                yield (path.stem, conversation.name), how


def keys_of(template: str, conversation: str) -> set[Pair]:
    """Under which keys of DIFFERENCES a difference may be listed."""
    return {(template, conversation), (template, ANY), (ANY, conversation)}


def describe(wanted: Outcome, got: Outcome) -> str:
    """Where two prompts part."""
    if isinstance(wanted, NoText) or isinstance(got, NoText):
        return f"wanted {wanted!r:.300}, got {got!r:.300}"
    same = next(
        (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b),
        min(len(wanted), len(got)),
    )
    start = max(0, same - 40)
    return f"wanted ...{wanted[start : same + 60]!r}, got ...{got[start : same + 60]!r}"


@pytest.fixture(scope="module")
def outcomes(upstream: Path) -> dict[Pair, str | None]:
    return dict(compare(upstream / "models" / "templates"))


@pytest.mark.parametrize("conversation", [each.name for each in COMPARED])
def test_same_text(outcomes: dict[Pair, str | None], conversation: str) -> None:
    wrong = {
        template: how
        for (template, name), how in outcomes.items()
        if name == conversation
        and how is not None
        and not keys_of(template, name) & DIFFERENCES.keys()
    }
    assert not wrong, "\n".join(f"{template}: {how}" for template, how in wrong.items())


def test_listed_differences_are_there(outcomes: dict[Pair, str | None]) -> None:
    differing = (keys_of(*pair) for pair, how in outcomes.items() if how is not None)
    gone = DIFFERENCES.keys() - set().union(*differing)
    assert not gone, f"take these out of DIFFERENCES: {sorted(gone)}"


def test_most_is_compared(upstream: Path, outcomes: dict[Pair, str | None]) -> None:
    files = list((upstream / "models" / "templates").glob("*.jinja"))
    assert len(files) >= 70
    assert len(outcomes) > 0.9 * len(files) * len(COMPARED)
    assert sum(how is None for how in outcomes.values()) > 0.9 * len(outcomes)


def test_conversations_have_names_of_their_own() -> None:
    assert len({each.name for each in CONVERSATIONS}) == len(CONVERSATIONS)


def test_the_comparison_can_fail() -> None:
    assert describe("a b c", "a x c") == "wanted ...'a b c', got ...'a x c'"
    assert "REFUSED" in describe(NoText.REFUSED, "a")
    assert describe("ab", "a") == "wanted ...'ab', got ...'a'"
