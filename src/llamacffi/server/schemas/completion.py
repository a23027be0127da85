"""A request to /v1/completions."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from llamacffi.server.schemas.base import Items, Token
from llamacffi.server.schemas.sampling import SampledRequest

__all__ = ["CompletionRequest", "Prompt"]

Prompt = str | list[int]


class CompletionRequest(SampledRequest):
    """Complete a text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "The capital of France is", "max_tokens": 8}]}
    )

    prompt: str | Items[Token] | Items[str] | Items[Items[Token]] = Field(
        description="A text, token ids, or a list of either."
    )
    suffix: str | None = Field(None, description="What follows the text that is filled in.")
    echo: bool | None = Field(None, description="Put the prompt in front of the text.")
    best_of: int | None = Field(None, ge=1, le=128)
    logprobs: int | None = Field(None, ge=0, le=100, description="How many alternatives.")
    n_probs: int | None = Field(None, ge=0, le=100, description="llama-server's logprobs.")

    def prompts(self) -> list[Prompt]:
        """The prompts, one or several."""
        prompt = self.prompt
        if isinstance(prompt, str) or all(isinstance(part, int) for part in prompt):
            return [prompt]  # type: ignore[list-item]  # mypy does not see that all are integers
        return list(prompt)  # type: ignore[arg-type]  # nor that none is here
