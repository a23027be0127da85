"""What the tests share: the real model, tiny ones, contexts, upstream's tree, and a leak check."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import llamacffi
from llamacffi import Context, Llama, Model
from llamacffi.native.handle import live_handles
from tests.chains import PROMPT
from tests.engines import EXACT
from tests.fetching import fetched
from tests.tiny_models import ARCHITECTURES, Sizes, write_model

ROOT = Path(__file__).parent.parent
# Threads that wait for each other are slow where other programs hold the cores: set 1 there.
N_THREADS = int(os.environ.get("LLAMACFFI_TEST_THREADS", "2"))
CLOSE = {"rtol": 2e-2, "atol": 5e-2}  # batches of other sizes add up in another order
LEAK_PATIENCE_SECONDS = 15.0  # a thread that is about to finish may still hold a reference

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import ChatPage

failed_key = pytest.StashKey[bool]()

# A shell starts what is to run in the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Continue = Callable[[Context, int], list[int]]


@pytest.fixture
def own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the choice itself: the suite may run with another backend (ci/gpu)."""
    monkeypatch.delenv("LLAMACFFI_BACKEND", raising=False)
    monkeypatch.delenv("LLAMACFFI_LIBRARY", raising=False)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model: LLAMACFFI_TEST_MODEL, or the smallest alias, fetched once per user."""
    given = os.environ.get("LLAMACFFI_TEST_MODEL")
    if given:
        return Path(given)
    return llamacffi.hub.resolve("smollm2")


@pytest.fixture(scope="session")
def model(model_path: Path) -> Iterator[Model]:
    with Model(model_path, backend="cpu") as loaded:
        yield loaded


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with model.context(n_ctx=512, n_threads=N_THREADS) as made:
        yield made


@pytest.fixture(scope="module")
def llama(model_path: Path) -> Iterator[Llama]:
    with Llama(model_path, backend="cpu", n_ctx=512, n_threads=N_THREADS) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def tokens(model: Model) -> list[int]:
    """A prompt that every sound context of the real model answers with " Rome"."""
    return model.vocab.tokenize("The capital of France is Paris, and the capital of Italy is")


@pytest.fixture
def decoded(context: Context) -> Context:
    """A context of the real model that has decoded PROMPT of tests.chains."""
    context.decode_tokens(context.model.vocab.tokenize(PROMPT))
    return context


# -- tiny models with random weights: loaded once, never closed by a test -------------------------


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for the tests that load, and close, a tiny llama themselves."""
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    """One of each architecture, by its name."""
    folder = tmp_path_factory.mktemp("tiny")
    with ExitStack() as opened:
        yield {
            name: opened.enter_context(
                Model(write_model(folder / f"{name}.gguf", name), backend="cpu")
            )
            for name in ARCHITECTURES
        }


@pytest.fixture(scope="session")
def tiny_llama(tiny_models: dict[str, Model]) -> Model:
    """Has a BOS token, and puts a space before the text."""
    return tiny_models["llama"]


@pytest.fixture
def small(tiny_llama: Model) -> Iterator[Context]:
    """A context of the tiny llama, with room for few outputs."""
    with tiny_llama.context(n_ctx=64, n_threads=1, n_outputs_max=16) as made:
        yield made


@pytest.fixture(scope="session")
def exact_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with room for 1024 tokens."""
    return write_model(tmp_path_factory.mktemp("exact") / "tiny.gguf", sizes=Sizes(n_ctx=1024))


@pytest.fixture(scope="session")
def exact_llama(exact_path: Path) -> Iterator[Llama]:
    """It computes in single precision, so that answers can be compared with an engine's."""
    with Llama(
        exact_path, backend="cpu", n_ctx=1024, n_threads=1, flash_attn=False, **EXACT
    ) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_models: dict[str, Model]) -> Model:
    """271 tokens: each byte, and a few longer pieces."""
    return tiny_models["gpt2"]


@pytest.fixture
def output(tiny_gpt2: Model) -> Iterator[Context]:
    """A context whose logits the tests overwrite: token 7 is best, then 8, and so on."""
    with tiny_gpt2.context(n_ctx=32, n_threads=1) as made:
        made.decode_tokens([5])
        logits = made.logits()
        logits[:] = -np.arange(logits.size) / 10
        logits[:7] = -50
        yield made


@pytest.fixture(scope="session")
def tiny_bert(tiny_models: dict[str, Model]) -> Model:
    """An encoder."""
    return tiny_models["bert"]


@pytest.fixture(scope="session")
def tiny_falcon(tiny_models: dict[str, Model]) -> Model:
    """The one of the chat sessions."""
    return tiny_models["falcon"]


@pytest.fixture
def on_falcon(tiny_falcon: Model) -> Iterator[Context]:
    """A context for two sessions."""
    with tiny_falcon.context(n_ctx=1024, n_seq_max=2, kv_unified=True, n_threads=1) as made:
        yield made


# -- the server's page ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_url(model_path: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    from tests.servers import server_process  # for the tests that need it, which is much to import

    threads = ("--n-threads", str(N_THREADS))
    options = ("--alias", "smollm2", "--n-ctx", "2048", "--parallel", "2", *threads)
    with server_process(str(model_path), *options) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for the whole session: Playwright runs an event loop in this thread."""
    from tests.browser import launched

    with launched() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[ChatPage]:
    """The server's page, which has the browser to itself."""
    from tests.browser import chat_page

    with chat_page(browser, page_url) as opened:
        yield opened


# -- the rest -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real sentence encoder: model.gguf, and the files it was made from."""
    return fetched("minilm", "all-minilm-l6-v2")


@pytest.fixture(scope="session")
def upstream() -> Path:
    """llama.cpp's source tree, at the pinned commit."""
    sys.path.insert(0, str(ROOT / "build_backend"))
    try:
        source = importlib.import_module("source")
        tree = source.present(ROOT) or source.ensure_source(ROOT)
    finally:
        sys.path.pop(0)
    assert isinstance(tree, Path)
    return tree


@pytest.fixture(scope="session")
def continue_greedily() -> Continue:
    """A function: the next tokens after what a context has decoded, each the most probable."""

    def continue_(context: Context, count: int, sequence: int = 0) -> list[int]:
        found: list[int] = []
        position = context.memory.position_max(sequence) + 1
        while True:
            found.append(int(context.logits().argmax()))
            if len(found) == count:
                return found
            context.decode_token(found[-1], position, sequence)
            position += 1

    return continue_


@pytest.fixture(scope="session")
def pieces() -> Callable[[str, Sequence[int]], list[str]]:
    """A function that cuts a text at some places, for property tests of streams."""

    def cut(text: str, places: Sequence[int]) -> list[str]:
        edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
        return [text[a:b] for a, b in pairwise(edges)]

    return cut


# -- leaks ----------------------------------------------------------------------------------------


@contextmanager
def _leak_check(patience: float = LEAK_PATIENCE_SECONDS) -> Iterator[None]:
    before = live_handles()
    yield
    deadline = time.monotonic() + patience
    while grown := {kind: n for kind, n in live_handles().items() if n > before.get(kind, 0)}:
        gc.collect()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert not grown, f"native objects were left alive: {grown}, before {before}"


@pytest.fixture(scope="session")
def leak_check() -> Callable[..., AbstractContextManager[None]]:
    """The leak check itself, to be tested."""
    return _leak_check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport | None]:
    report = yield
    if call.when == "call":
        item.stash[failed_key] = call.excinfo is not None
    return report


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test as many native objects are alive as before it.

    Fixtures of a wider scope are set up before this one. A test that failed is spared: its
    traceback keeps the objects alive, and it has been reported already.
    """
    check = _leak_check()
    check.__enter__()
    yield
    if not request.node.stash.get(failed_key, False):
        check.__exit__(None, None, None)
