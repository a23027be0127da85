"""Let a model call functions: python examples/tools.py [MODEL]"""

import json
import sys

import llamacffi


def get_weather(city: str) -> dict[str, object]:
    return {"city": city, "sky": "sunny", "celsius": 21}


CITY = {"type": "string", "enum": ["Oslo", "Rome", "Paris"]}
PARAMETERS = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
FUNCTION = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": PARAMETERS,
}
FUNCTIONS = {"get_weather": get_weather}

reference = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
talk: list[dict[str, object]] = [{"role": "user", "content": "How is the weather in Oslo?"}]
with llamacffi.Llama(reference, n_ctx=1024, progress=sys.stderr.isatty()) as llm:
    for tool_choice in ("required", "none"):
        choice = llm.create_chat_completion(
            talk,
            tools=[{"type": "function", "function": FUNCTION}],
            tool_choice=tool_choice,
            parallel_tool_calls=False,
            temperature=0,
            max_tokens=48,
        )["choices"][0]
        talk.append(choice["message"])
        for call in choice["message"].get("tool_calls", ()):
            arguments = json.loads(call["function"]["arguments"])
            result = FUNCTIONS[call["function"]["name"]](**arguments)
            print(call["function"]["name"], arguments, "->", result)
            talk.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)})
print(talk[-1]["content"])
