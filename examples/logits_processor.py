"""Forbid tokens with a logits processor: python examples/logits_processor.py [MODEL]"""

import math
import sys

import llamacffi

reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
with llamacffi.Llama(reference, n_ctx=512) as llm:
    vocab = llm.model.vocab
    with_e = [token for token in range(len(vocab)) if b"e" in vocab.token_to_piece(token).lower()]

    def without_e(_tokens, logits):
        """Change the logits in place; the tokens are those so far."""
        logits[with_e] = -math.inf

    result = llm.create_completion(
        "My favourite animal is", max_tokens=16, temperature=0, logits_processor=without_e
    )
    text = result["choices"][0]["text"]
    print(text)
    assert "e" not in text.lower()
