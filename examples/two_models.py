"""Let two models work at the same time: python examples/two_models.py [MODEL [OTHER_MODEL]]"""

import sys
import threading

import llamacffi

PROMPT = "The best thing about rain is"

references = sys.argv[1:] or ["smollm2"]
answers = {}


def complete(name, reference, seed):
    """Load a model of one's own and complete the prompt with it."""
    with llamacffi.Llama(reference, n_ctx=512, n_threads=1, seed=seed) as llm:
        answers[name] = llm(PROMPT, max_tokens=12)["choices"][0]["text"]


threads = [
    threading.Thread(target=complete, args=("first", references[0], 1)),
    threading.Thread(target=complete, args=("other", references[-1], 2)),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name in sorted(answers):
    print(f"{name}: {PROMPT}{answers[name]}")
