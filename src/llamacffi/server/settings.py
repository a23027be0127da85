"""What an operator can set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llamacffi.errors import ParameterError
from llamacffi.sampling.params import SamplingParams

__all__ = ["PAGE", "Settings"]

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Settings:
    """How the server behaves; nothing of it concerns the model.

    Attributes:
        api_keys: Who has one of these may use it; empty for everybody.
        cors_origins: Origins whose pages may call it from a browser; "*" for all.
        allowed_hosts: Names it answers to (the Host header, without the port), so that a foreign
            page cannot reach it under a name that resolves to this machine; empty for any.
        body_bytes_max: Largest body of a request.
        body_timeout: Seconds in which a body must have arrived.
        tokens_max: Most tokens that a request may ask for, and that one that names no number
            gets; None for as many as fit.
        prompt_tokens_max: Most tokens of a prompt; None for as many as fit.
        choices_max: Most answers (prompts times `n` or `best_of`) in one request.
        inputs_max: Most texts to embed or documents to rank in one request.
        per_key_max: Requests at a time with one key, or from one address where there are no keys;
            None for any number.
        timeout: Seconds that a request may take, with waiting; None for any number.
        stall_timeout: Seconds that a client may leave a stream unread.
        shutdown_timeout: Seconds that running requests get when the server stops.
        sampling: The sampling parameters that a request does not name.
        page: A folder of files that are served at `/`; None, or a folder that is not there, for
            none.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    body_bytes_max: int = 4 * 1024 * 1024
    body_timeout: float = 30.0
    tokens_max: int | None = None
    prompt_tokens_max: int | None = None
    choices_max: int = 32
    inputs_max: int = 2048
    per_key_max: int | None = None
    timeout: float | None = None
    stall_timeout: float = 60.0
    shutdown_timeout: float = 30.0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    page: Path | None = PAGE

    def __post_init__(self) -> None:
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise ParameterError(
                "An API key is empty, has spaces around it, or characters other than ASCII, which "
                "cannot be sent: choose another one."
            )
        positive = (
            "body_bytes_max", "body_timeout", "tokens_max", "prompt_tokens_max",
            "choices_max", "inputs_max", "per_key_max", "timeout", "stall_timeout",
        )  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterError(f"{name}={value}: choose more than 0.")
        if self.shutdown_timeout < 0:
            raise ParameterError(f"shutdown_timeout={self.shutdown_timeout}: choose 0 or more.")
