"""Load a model file and use it a little: what the hostile-file tests do to every file, in a child.

Run as `python -m tests.exercise` with one path per line on standard input; it prints one JSON line
before ({"begin": path}) and one after each file, so that whoever started it knows which file
killed it. With the argument "unchecked" the check before the load is left out, for hunting.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llamacffi.backends import choose
from llamacffi.context import Context
from llamacffi.context_params import ContextParams
from llamacffi.errors import LlamaCffiError
from llamacffi.fitting import Fit, plan_memory
from llamacffi.gguf_check import check_model_file
from llamacffi.measuring import ModelSource
from llamacffi.model import Model
from llamacffi.model_params import ModelParams

TEXT = "Once upon a time <|im_start|> é\0 123 \N{SNOWMAN}"
N_CTX = 64
WORKERS = "ggml-cpu"  # the source folder whose code runs in worker threads
MEMORY_LIMIT = 8 << 30  # a hostile size must fail as an allocation, not take the machine's memory


def use(path: str) -> dict[str, Any]:
    """Load, read, tokenise and compute.

    Returns:
        The number of tokens; and "fatal" if an assertion failed while computing. With one thread
        that is an error like others. With several, which is the default, it would have failed in
        a worker too, where nothing can catch it: such a file has to be refused beforehand.
    """
    with Model(path, backend="cpu") as model:
        dict(model.metadata)
        _ = (model.description, model.chat_template(), model.n_params)
        n_tokens = _use_vocab(model)
        if not n_tokens:
            return {"tokens": 0}
        embeddings = not model.has_decoder
        context = model.context(n_ctx=N_CTX, n_threads=1, n_threads_batch=1, embeddings=embeddings)
        with context:
            try:
                _compute(context, [t % n_tokens for t in (1, 5, 300, 7, n_tokens - 1)])
            except LlamaCffiError as error:
                if context._handle._broken is None or WORKERS not in str(error):
                    raise
                return {"tokens": n_tokens, "fatal": str(error)}
    return {"tokens": n_tokens}


def _use_vocab(model: Model) -> int:
    vocab = model.vocab
    for special in (False, True):
        try:
            vocab.tokenize(TEXT, add_special=special, parse_special=special)
        except LlamaCffiError:
            # Byte tokens or a BOS are missing, say: an error, and the rest of the model may serve.
            assert not model._handle.closed
    for token in range(vocab.n_tokens):
        vocab.token_to_piece(token, special=True)
    vocab.detokenize(list(range(min(vocab.n_tokens, 512))))
    _ = (vocab.bos, vocab.eos, vocab.eot, vocab.sep, vocab.nl, vocab.pad, vocab.mask)
    return vocab.n_tokens


def _compute(context: Context, tokens: list[int]) -> None:
    model = context.model
    if model.has_encoder:
        context.encode(tokens)
    if model.has_decoder:
        context.decode_tokens(tokens)
        context.decode_tokens(tokens, outputs="all")
        context.logits(-1).sum()
    elif not model.has_encoder:  # BERT and its like have neither by llama.cpp's count
        context.decode_tokens(tokens)
    if not model.has_decoder and context.pooling in ("mean", "cls", "last"):
        context.pooled_embedding(0).sum()


def outcome(path: str, checked: bool = True) -> dict[str, Any]:
    """What came of one file: {"ok": True}, or the error's class and text."""
    try:
        if checked:
            check_model_file(Path(path))
        _plan(path)
        return {"file": path, "ok": True, **use(path)}
    except LlamaCffiError as error:
        return {"file": path, "ok": False, "error": type(error).__name__, "message": str(error)}


def _plan(path: str) -> None:
    """Fit it to the memory, which loads it without its weights; whatever is wrong is said later."""
    fit = Fit(ContextParams(n_ctx="auto", n_threads=1), n_ctx_min=N_CTX)
    source = ModelSource(choose("cpu"), [Path(path)])
    with contextlib.suppress(LlamaCffiError):
        plan_memory(source, ModelParams(), fit)


def limit_resources() -> None:
    """Bound memory, and leave no core files behind."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(paths: Iterable[str], checked: bool = True) -> None:
    """Exercise the files, one JSON line before and after each."""
    for path in paths:
        sys.stdout.write(json.dumps({"begin": path}) + "\n")
        sys.stdout.flush()
        sys.stdout.write(json.dumps(outcome(path, checked)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    limit_resources()
    run((line.rstrip(os.linesep) for line in sys.stdin), "unchecked" not in sys.argv[1:])
