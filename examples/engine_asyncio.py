"""Stream several texts at once, and leave one early: python examples/engine_asyncio.py [MODEL]"""

from __future__ import annotations

import asyncio
import sys

import llamacffi


async def tell(llm: llamacffi.AsyncEngine, beginning: str, most: int) -> str:
    """Read a text until it is so long, and leave the rest."""
    text = beginning
    stream = await llm.create_completion(beginning, max_tokens=24, stream=True, seed=1)
    async for piece in stream:
        text += piece["choices"][0]["text"]
        if len(text) > most:
            await stream.aclose()
    return text


async def main() -> None:
    """Tell three tales together."""
    reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    model = await asyncio.to_thread(llamacffi.Model, reference)
    engine = llamacffi.Engine(model, n_parallel=4, n_ctx=1024)
    async with llamacffi.AsyncEngine(engine) as llm:
        beginnings = ["Once upon a time", "It was a dark night", "The fox said"]
        tales = [tell(llm, beginning, 60) for beginning in beginnings]
        for tale in await asyncio.gather(*tales):
            print(f"- {tale}")
        print(llm.stats().totals)
    model.close()


if __name__ == "__main__":
    asyncio.run(main())
