"""POST /tokenize and /detokenize, in llama-server's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llamacffi import aio
from llamacffi.server.answering import answered
from llamacffi.server.describing import answers
from llamacffi.server.models import ServedModel
from llamacffi.server.schemas.answers import Content, Tokens
from llamacffi.server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from llamacffi.server.state import State
from llamacffi.vocab import Vocab

if TYPE_CHECKING:
    from llamacffi.engine import AsyncEngine

__all__ = ["add_tokens"]


def add_tokens(router: APIRouter, state: State) -> None:
    """Add the routes."""

    @router.post("/tokenize", response_model=None, responses=answers(Tokens))
    async def tokenize(asked: TokenizeRequest, request: Request) -> Response:
        """Turn a text into token ids."""

        async def ask(engine: AsyncEngine, _served: ServedModel) -> Any:
            # In a thread: a megabyte of text takes a while.
            return await aio.run(_tokenized, engine.model.vocab, asked)

        return await answered(state, request, asked.model, ask)

    @router.post("/detokenize", response_model=None, responses=answers(Content))
    async def detokenize(asked: DetokenizeRequest, request: Request) -> Response:
        """Turn token ids into text."""

        async def ask(engine: AsyncEngine, _served: ServedModel) -> Any:
            vocab = engine.model.vocab
            # As llama-server does, control tokens are spelled out.
            text = await aio.run(vocab.detokenize, asked.tokens, unparse_special=True)
            return {"content": text}

        return await answered(state, request, asked.model, ask)


def _tokenized(vocab: Vocab, asked: TokenizeRequest) -> dict[str, Any]:
    tokens = vocab.tokenize(asked.content, asked.add_special, asked.parse_special)
    if not asked.with_pieces:
        return {"tokens": tokens}
    return {"tokens": [{"id": token, "piece": _piece(vocab, token)} for token in tokens]}


def _piece(vocab: Vocab, token: int) -> str | list[int]:
    """A token's text; the numbers of its bytes where they are only a part of a character."""
    spelled = vocab.token_to_piece(token, special=True)
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return list(spelled)
