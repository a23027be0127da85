"""Find the lines that mean what is asked: python examples/semantic_search.py [MODEL [FILE [QUERY]]]

Take a model that was trained for embeddings; with another one, the order says little.
"""

import sys
from pathlib import Path

import numpy as np

import llamacffi

LINES = [
    "Cats sleep most of the day.",
    "Prices rose by two per cent in May.",
    "Bake the bread for an hour.",
    "The train to Oslo leaves at nine.",
]

arguments = sys.argv[1:]
reference = arguments[0] if arguments else "smollm2"
lines = Path(arguments[1]).read_text(encoding="utf-8").splitlines() if arguments[1:] else LINES
query = arguments[2] if arguments[2:] else "When can I go to Norway?"
lines = [line for line in lines if line.strip()]
with llamacffi.Llama(reference, embedding=True, n_ctx=512) as llm:
    found = llm.embed([query, *lines])
# Where the model's file does not say how to pool, there is a row for each token.
vectors = np.stack([each if each.ndim == 1 else each.mean(axis=0) for each in found])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
scores = vectors[1:] @ vectors[0]
for index in scores.argsort()[::-1][:3]:
    print(f"{scores[index]:.3f}  {lines[index]}")
