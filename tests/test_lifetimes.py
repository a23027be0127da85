"""Lifetimes: close in any order and from any thread, fork, Ctrl-C, interpreter exit."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import llamacffi
from llamacffi import Context, Llama, Model, SamplerChain
from llamacffi.errors import CancelledError, ClosedError, ForkedError
from llamacffi.native.handle import Handle, live_handles


def test_model_is_closed_before_its_context_and_chain(model_path: Path) -> None:
    model = Model(model_path, backend="cpu")
    context = model.context(n_ctx=64)
    chain = SamplerChain(model, ["greedy"])
    vocab = model.vocab
    model.close()
    assert context.closed
    for use in (
        lambda: context.decode_tokens([1]),
        lambda: context.logits(),
        lambda: context.memory.clear(),
        lambda: context.memory.position_max(),
        lambda: context.n_threads,
        lambda: chain.sample(context),
        lambda: chain.reset(),
        lambda: chain.clone(),
        lambda: vocab.tokenize("x"),
        lambda: vocab.detokenize([1]),
        lambda: vocab.bos,
        lambda: model.size,
        lambda: model.metadata,
        lambda: model.context(),
        lambda: SamplerChain(model),
    ):
        with pytest.raises(ClosedError, match="closed"):
            use()
    for closable in (context, chain, model, context):
        closable.close()  # again, in any order


def test_context_outlives_the_name_of_its_model(model_path: Path) -> None:
    context = Model(model_path, backend="cpu").context(n_ctx=64)
    gc.collect()
    context.decode_tokens([1, 2, 3])
    assert context.memory.position_max() == 2
    context.model.close()


def test_forgotten_objects_are_freed(model_path: Path) -> None:
    before = live_handles()
    model = Model(model_path, backend="cpu")
    context = model.context(n_ctx=64)
    chain = SamplerChain(model, ["greedy"])
    cycle = [context, chain]
    cycle.append(cycle)
    del model, context, chain, cycle
    gc.collect()
    assert live_handles() == before


def test_the_count_of_live_handles_can_show_a_leak() -> None:
    before = live_handles()
    leaked = Handle("test object", object(), lambda pointer: None)
    assert live_handles() == {**before, "test object": 1}
    leaked.close()
    assert live_handles() == before


def test_logits_outlive_their_context(model_path: Path) -> None:
    model = Model(model_path, backend="cpu")
    context = model.context(n_ctx=64)
    context.decode_tokens([1, 2, 3])
    logits = context.logits()
    part = logits[100:200]
    kept = logits.copy()
    model.close()
    del logits, context, model
    gc.collect()
    assert (part == kept[100:200]).all()  # still mapped
    part[:] = 0
    del part
    gc.collect()


def test_memory_is_given_back(model_path: Path) -> None:
    """RSS after many loads and closes stays where it was after a few."""
    import psutil

    process = psutil.Process()

    def use() -> None:
        with Llama(model_path, backend="cpu", n_ctx=256, use_mmap=False) as llama:
            llama("Hello", max_tokens=2)

    for _ in range(3):
        use()
    settled = process.memory_info().rss
    for _ in range(6):
        use()
    grown = process.memory_info().rss - settled
    assert grown < 60 * 2**20, f"{grown / 2**20:.0f} MiB more; the model alone has 94 MiB"


# -- other threads ------------------------------------------------------------------------------


def _decode_in_thread(context: Context, errors: list[BaseException]) -> threading.Thread:
    started = threading.Event()

    def work() -> None:
        started.set()
        try:
            while True:
                context.memory.clear()
                context.decode_tokens([1] * (context.n_ctx_seq - 1))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    time.sleep(0.3)
    return thread


@pytest.mark.alone  # it measures how long closing takes
@pytest.mark.parametrize("what", ["context", "model"])
def test_close_while_another_thread_decodes(model_path: Path, what: str) -> None:
    model = Model(model_path, backend="cpu")
    context = model.context(n_ctx=2048, n_threads=2)
    errors: list[BaseException] = []
    thread = _decode_in_thread(context, errors)
    start = time.monotonic()
    (context if what == "context" else model).close()
    waited = time.monotonic() - start
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [ClosedError]
    assert waited < 10  # a decode of 2047 tokens takes longer on its own
    model.close()


def test_cancel_from_another_thread_and_go_on(model: Model) -> None:
    with model.context(n_ctx=2048, n_threads=2) as context:
        context.decode_tokens([1, 2, 3])
        errors: list[BaseException] = []

        def work() -> None:
            try:
                context.decode_tokens([4] * 2000)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        context.cancel()
        thread.join(20)
        assert [type(error) for error in errors] == [CancelledError]
        assert context.memory.position_max() == 2  # as before the call
        assert context.memory.tokens() == [1, 2, 3]
        context.decode_tokens([4])
        assert context.memory.position_max() == 3


def test_cancel_between_the_chunks_of_a_prompt(model: Model) -> None:
    """The chunks that were done are taken back as well."""
    with model.context(n_ctx=256, n_batch=32, n_threads=1) as context:
        context.decode_tokens([1, 2, 3])
        run, calls = context._run, []

        def cancel_after_the_first(*arguments: object) -> None:
            run(*arguments)  # type: ignore[arg-type]  # passed on as they came
            calls.append(arguments)
            context.cancel()

        context._run = cancel_after_the_first  # type: ignore[method-assign]  # the only way between
        with pytest.raises(CancelledError):
            context.decode_tokens([4] * 100)
        assert len(calls) == 1
        del context._run
        assert context.memory.position_max() == 2
        assert context.memory.tokens() == [1, 2, 3]
        context.decode_tokens([4])


def test_threads_share_one_context(model: Model) -> None:
    """Calls from many threads take turns; none is lost, nothing crashes."""
    with model.context(n_ctx=512, n_seq_max=4, n_threads=1) as context:
        errors: list[BaseException] = []

        def work(sequence: int) -> None:
            try:
                for _ in range(10):
                    context.decode_tokens([5, 6, 7], sequence=sequence)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert [context.memory.position_max(i) for i in range(4)] == [29] * 4


# -- fork -----------------------------------------------------------------------------------------


def _in_fork(work: object) -> object:
    """Run in a forked child; returns what it sent, or the exit status if it died."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            sender.send(work())  # type: ignore[operator]
        finally:
            sender.close()
            os._exit(0)
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(60) else "no answer"
    except EOFError:
        answer = "died"
    if answer == "no answer":
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return answer if status == 0 else f"status {status}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_objects_refuse_to_work_after_fork(model_path: Path) -> None:
    model = Model(model_path, backend="cpu")
    context = model.context(n_ctx=64)
    context.decode_tokens([1, 2, 3])

    def child() -> list[str]:
        seen = []
        for use in (
            lambda: context.decode_tokens([4]),
            lambda: model.vocab.tokenize("x"),
            lambda: model.context(n_ctx=64),
        ):
            try:
                use()
            except ForkedError as error:
                seen.append("spawn" if "spawn" in str(error) else str(error))
        context.close()
        model.close()
        return seen

    assert _in_fork(child) == ["spawn"] * 3
    context.decode_tokens([4])  # the parent goes on
    model.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_load_its_own(model_path: Path) -> None:
    with Llama(model_path, backend="cpu", n_ctx=64, n_threads=2) as parent:
        parent("Hello", max_tokens=2, temperature=0)

        def child() -> object:
            with Llama(model_path, backend="cpu", n_ctx=64, n_threads=2) as own:
                return own("The capital of France is", max_tokens=2, temperature=0)["choices"][0][
                    "text"
                ]

        assert "Paris" in str(_in_fork(child))


# -- Ctrl-C and the interpreter's exit -------------------------------------------------------------


def _interrupted(script: str, model_path: Path, after: str = "ready") -> tuple[int, str, str]:
    """Start a script, press Ctrl-C 0.3 s after it says that it is ready, and wait for its end."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", script, model_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == after
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


CTRL_C_DECODE = """
import sys, time, llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
context = model.context(n_ctx=8192, n_threads=2)
context.decode_tokens([1, 2, 3])
start = time.monotonic()
print("ready")
try:
    context.decode_tokens([4] * 8000)
except KeyboardInterrupt:
    took = time.monotonic() - start
    print("interrupted", took < 15, context.memory.position_max())
context.decode_tokens([4])
print("goes on", context.memory.position_max())
"""

CTRL_C_LOAD = """
import sys, threading, llamacffi
from llamacffi.native.handle import live_handles
once = []
def progress(fraction):
    if not once:
        once.append(1)
        print("ready")
    import time; time.sleep(1)  # a slow disk
try:
    llamacffi.Model(sys.argv[1], backend="cpu", load_mode="none", progress=progress)
except KeyboardInterrupt:
    print("interrupted", live_handles())
with llamacffi.Llama(sys.argv[1], backend="cpu", n_ctx=64) as llama:
    print("goes on", llama("Hello", max_tokens=1)["usage"]["completion_tokens"])
"""

CTRL_C_STREAM = """
import sys, llamacffi
llama = llamacffi.Llama(sys.argv[1], backend="cpu", n_ctx=4096)
try:
    endless = {token: -1e9 for token in range(3)}  # SmolLM2's end tokens
    options = {"max_tokens": 4000, "temperature": 0, "logit_bias": endless, "stream": True}
    for i, chunk in enumerate(llama("Once upon a time", **options)):
        if i == 3:
            print("ready")
except KeyboardInterrupt:
    print("interrupted")
print("goes on", llama("Hello", max_tokens=2, temperature=0)["usage"]["completion_tokens"])
"""


@pytest.mark.alone  # it measures how long it takes to stop
def test_ctrl_c_during_a_long_decode(model_path: Path) -> None:
    code, out, err = _interrupted(CTRL_C_DECODE, model_path)
    assert code == 0, err
    assert out.splitlines() == ["interrupted True 2", "goes on 3"]


def test_ctrl_c_during_a_load(model_path: Path) -> None:
    code, out, err = _interrupted(CTRL_C_LOAD, model_path)
    assert code == 0, err
    assert out.splitlines() == ["interrupted {}", "goes on 1"]


def test_ctrl_c_during_a_stream(model_path: Path) -> None:
    code, out, err = _interrupted(CTRL_C_STREAM, model_path)
    assert code == 0, err
    assert out.splitlines()[0] == "interrupted"
    assert out.splitlines()[1].startswith("goes on")


EXIT = """
import sys, threading, llamacffi
model = llamacffi.Model(sys.argv[1], backend="cpu")
context = model.context(n_ctx=2048)
chain = llamacffi.SamplerChain(model, ["greedy"])
context.decode_tokens([1, 2, 3])
logits = context.logits()
if sys.argv[2] == "daemon":
    def work():
        while True:
            context.memory.clear()
            context.decode_tokens([1] * 2000)
    threading.Thread(target=work, daemon=True).start()
    import time; time.sleep(0.3)
keep = [model, context, chain, logits]
print("leaving")
"""


@pytest.mark.parametrize("how", ["plain", "daemon"])
def test_interpreter_exit_with_everything_open(model_path: Path, how: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", EXIT, model_path, how], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "leaving"
    # A daemon thread may be told that its context is gone; nothing worse may be said.
    assert "Fatal" not in child.stderr
    assert how == "daemon" or child.stderr == ""


def test_the_library_stays_usable_after_errors(model_path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for _ in range(3):
        with pytest.raises(llamacffi.errors.ModelFormatError):
            Model(empty)
        with pytest.raises(llamacffi.errors.ModelNotFoundError):
            Model(tmp_path / "missing.gguf")
    with Llama(model_path, backend="cpu", n_ctx=64) as llama:
        assert llama("Hello", max_tokens=1)["usage"]["completion_tokens"] == 1
