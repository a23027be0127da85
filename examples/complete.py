"""Complete a text: python examples/complete.py [MODEL]"""

import sys

import llamacffi

reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
with llamacffi.Llama(reference, n_ctx=512, progress=sys.stderr.isatty()) as llm:
    result = llm.create_completion("The capital of France is", max_tokens=16, temperature=0)
    print(result["choices"][0]["text"])
    print(result["usage"], file=sys.stderr)
