"""A conversation that outlives the process: run it again to go on.

python examples/chat_session.py MODEL [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import llamacffi


def main() -> None:
    """Ask the next of three questions, and save the conversation if there is a file for it."""
    questions = ["What is the capital of France?", "And of Italy?", "Which of them is older?"]
    file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with llamacffi.Model(sys.argv[1]) as model:
        if file is not None and file.exists():
            chat = llamacffi.ChatSession.load(file, model)
        else:
            chat = llamacffi.ChatSession(model, system="Answer briefly.", n_ctx=512, max_tokens=24)
        asked = sum(message["role"] == "user" for message in chat.messages)
        question = questions[asked % len(questions)]
        print(f"> {question}")
        for piece in chat.stream(question):
            print(piece, end="", flush=True)
        print(f"\n({chat.usage.cached_tokens} of {chat.usage.prompt_tokens} tokens were known)")
        if file is not None:
            chat.save(file)
        chat.close()


if __name__ == "__main__":
    main()
