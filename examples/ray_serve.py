"""Serve a model with replicas on a Ray cluster, and ask it: python examples/ray_serve.py MODEL

Without a cluster (RAY_ADDRESS), Ray is started on this machine.
"""

import sys

from ray import serve

from llamacffi.ray import EngineClient, EngineOptions, ServeOptions, application

engine = EngineOptions(
    model=sys.argv[1],
    n_threads=1,
    engine_params={"n_parallel": 8, "n_ctx": 4096},
)
options = ServeOptions(engine, autoscaling_config={"min_replicas": 1, "max_replicas": 4})
handle = serve.run(application(options), name="example", route_prefix=None)

client = EngineClient(handle)
question = [{"role": "user", "content": "Name three colours."}]
for piece in client.create_chat_completion(question, max_tokens=24, temperature=0, stream=True):
    print(piece["choices"][0]["delta"].get("content") or "", end="", flush=True)
print()
serve.delete("example")
