"""Answer the rows of a data set on a Ray cluster: python examples/ray_batch.py MODEL

Without a cluster (RAY_ADDRESS), Ray is started on this machine.
"""

import sys

import ray.data

from llamacffi.ray import CompletionBatches, EngineOptions

options = EngineOptions(model=sys.argv[1], n_threads=1, engine_params={"n_ctx": 4096})
countries = ["France", "Italy", "Spain", "Japan", "Egypt", "Peru", "Norway", "Greece"]
rows = [{"country": name, "prompt": f"The capital of {name} is"} for name in countries]

answered = ray.data.from_items(rows).map_batches(
    CompletionBatches,
    fn_constructor_args=(options,),
    fn_constructor_kwargs={"arguments": {"max_tokens": 4, "temperature": 0}},
    batch_size=256,
    concurrency=1,  # processes; (1, 8) for as many as there is work for
    **options.resources,
)
for row in answered.take_all():
    print(f"{row['country']}:{row['completion']} {row['error']}")
