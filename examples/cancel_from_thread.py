"""Stop a generation from another thread: python examples/cancel_from_thread.py [MODEL]"""

import sys
import threading

import llamacffi

reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
with llamacffi.Llama(reference, n_ctx=2048) as llm:
    timer = threading.Timer(1.0, llm.context.cancel)
    timer.start()
    try:
        for chunk in llm.create_completion("Once upon a time", max_tokens=None, stream=True):
            print(chunk["choices"][0]["text"], end="", flush=True)
    except llamacffi.errors.CancelledError as error:
        print(f"\n{error}")
    finally:
        timer.cancel()
