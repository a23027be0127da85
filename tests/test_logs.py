"""The log bridge: llama.cpp's messages reach Python's logging, whole, at their level."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacffi import Model
from llamacffi.backends import choose
from llamacffi.errors import ModelFormatError
from llamacffi.native.library import Library

LOGGER = "llamacffi.native"
INFO, WARN, ERROR, CONT = 2, 3, 4, 5  # enum ggml_log_level


def test_messages_come_at_their_level_and_in_whole_lines(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER), Model(model_path, backend="cpu") as model:
        model.context(n_ctx=64).close()
    records = [record for record in caplog.records if record.name == LOGGER]
    assert {record.levelno for record in records} >= {logging.DEBUG, logging.INFO}
    texts = [record.getMessage() for record in records]
    assert not any("\n" in text for text in texts)
    assert any(text.startswith("llama_model_loader: loaded meta data") for text in texts)


def _callback(library: Library) -> Callable[[int, bytes], None]:
    """The shim's log callback, as llama.cpp calls it."""
    callback = library.ffi.new("ggml_log_callback *")
    user_data = library.ffi.new("void **")
    library.lib.llama_log_get(callback, user_data)
    return lambda level, text: callback[0](level, text, user_data[0])


def test_a_line_written_in_pieces_is_one_message(caplog: pytest.LogCaptureFixture) -> None:
    library = choose("cpu")
    library.log.drain()
    library.lib.llamacffi_log_set_level(INFO)
    log = _callback(library)
    with caplog.at_level(logging.INFO, LOGGER):
        log(WARN, b"one ")
        log(CONT, b"two ")
        library.log.drain()
        assert caplog.records == []  # the line is not complete
        log(CONT, b"three\nfour\n")
        log(INFO, b"five\n")
        log(ERROR, b"caf\xc3\xa9 \xff\n")
        library.log.drain()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "one two three"),
        (logging.WARNING, "four"),
        (logging.INFO, "five"),
        (logging.ERROR, "café \N{REPLACEMENT CHARACTER}"),
    ]
    library.log.follow_level()


def test_levels_that_nobody_reads_are_not_kept(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, LOGGER), Model(model_path, backend="cpu"):
        pass
    assert [r for r in caplog.records if r.name == LOGGER and r.levelno < logging.WARNING] == []
    assert choose("cpu").log.pending == 0


def test_an_error_carries_the_tail_of_the_log(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model_path.read_bytes()[:5_000_000])
    with pytest.raises(ModelFormatError) as caught:
        Model(cut, backend="cpu")
    assert "not within the file bounds" in str(caught.value)
    assert "not within the file bounds" in caplog.text  # and it was logged as well
    assert any(r.levelno == logging.ERROR for r in caplog.records if r.name == LOGGER)


def test_the_queue_is_bounded_and_says_what_it_dropped(caplog: pytest.LogCaptureFixture) -> None:
    library = choose("cpu")
    library.log.drain()
    library.lib.llamacffi_log_set_level(INFO)
    log = _callback(library)
    for number in range(5000):
        log(INFO, f"message {number}\n".encode())
    with caplog.at_level(logging.INFO, LOGGER):
        library.log.drain()
    texts = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert texts[-1] == "message 4999"
    assert len(texts) == 4097  # what is kept, and a line on the rest
    assert texts[0] == "904 log lines were dropped"
    library.log.follow_level()


def test_nothing_is_printed_unless_asked(model_path: Path) -> None:
    script = (
        "import sys, llamacffi\n"
        "with llamacffi.Llama(sys.argv[1], backend='cpu', n_ctx=64) as llama:\n"
        "    llama('Hello', max_tokens=2)\n"
        "try:\n"
        "    llamacffi.Model(__file__ if '__file__' in globals() else sys.executable)\n"
        "except llamacffi.errors.ModelFormatError:\n"
        "    pass\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, model_path], capture_output=True, text=True, timeout=120
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
