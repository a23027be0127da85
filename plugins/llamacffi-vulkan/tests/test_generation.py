"""What is computed on the device is what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacffi import Device, Llama, Model
from llamacffi.errors import ContextInitError, UnsupportedError

Continue = Callable[..., str]
# Neither is on the verge of another word within 16 tokens: the CPU rounds activations to 8 bits
# for these weights, Vulkan does not.
REAL_PROMPT = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Germany is"
)
N_REAL_TOKENS = 16


def test_the_real_models_text_is_the_cpus(device: Device, continue_: Continue) -> None:
    texts = []
    for backend, devices in (("cpu", None), ("vulkan", [device.name])):
        with Model("smollm2", backend=backend, devices=devices) as model:
            texts.append(continue_(model, REAL_PROMPT, N_REAL_TOKENS))
    assert texts[0] == texts[1]
    assert len(texts[0]) > N_REAL_TOKENS


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon"])
@pytest.mark.parametrize("n_gpu_layers", [0, 1, 2, -1])
def test_layers_here_and_there(
    architecture: str, n_gpu_layers: int, device: Device, tiny_paths: dict[str, Path],
    continue_: Continue,
) -> None:  # fmt: skip
    path = tiny_paths[architecture]
    with Model(path, backend="cpu") as model:
        expected = continue_(model)
    with Model(path, backend="vulkan", devices=[device.name], n_gpu_layers=n_gpu_layers) as model:
        assert continue_(model) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"offload_kqv": False},
        {"op_offload": False},
        {"flash_attention": "off"},
        {"n_ubatch": 2},
    ],
)
def test_ways_of_computing(
    parameters: dict[str, object], on_cpu: Model, on_vulkan: Model, continue_: Continue
) -> None:
    assert continue_(on_vulkan, **parameters) == continue_(on_cpu, **parameters)


def test_drawn_text_follows_the_seed(on_vulkan: Model, continue_: Continue) -> None:
    texts = [
        continue_(on_vulkan, sampling={"temperature": 0.8, "top_k": 20, "seed": seed})
        for seed in (1, 2, 1)
    ]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_embeddings(architecture: str, device: Device, tiny_paths: dict[str, Path]) -> None:
    found = []
    for backend, devices in (("cpu", None), ("vulkan", [device.name])):
        with Llama(
            str(tiny_paths[architecture]), backend=backend, devices=devices, embedding=True,
            n_ctx=128, n_threads=1,
        ) as llama:  # fmt: skip
            found.append(np.array(llama.embed(["abc the def", "the"])[0]))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-2, atol=5e-2)


def test_a_state_goes_from_one_backend_to_the_other(
    on_cpu: Model, on_vulkan: Model, continue_: Continue
) -> None:
    expected = continue_(on_cpu)
    head = on_cpu.vocab.tokenize("abc the def")
    for first, second in ((on_vulkan, on_vulkan), (on_vulkan, on_cpu), (on_cpu, on_vulkan)):
        with first.context(n_ctx=128, n_threads=1) as context:
            for position, token in enumerate(head[:-1]):
                context.decode_token(token, position)
            state = context.save_state(0)
        with second.context(n_ctx=128, n_threads=1) as context:
            context.load_state(state, 0)
            found = []
            token = head[-1]
            for position in range(len(head) - 1, len(head) + 15):
                context.decode_token(token, position)
                token = int(context.logits().argmax())
                found.append(token)
        assert second.vocab.detokenize(found) == expected


def test_closing_gives_the_memory_back_and_opening_again_works(
    device: Device, tiny_paths: dict[str, Path], continue_: Continue
) -> None:
    texts = set()
    for _ in range(5):
        with Model(tiny_paths["llama"], backend="vulkan", devices=[device.name]) as model:
            texts.add(continue_(model))
    assert len(texts) == 1


def test_cache_of_a_model_split_by_tensors_stays_on_the_devices(
    device: Device, tiny_paths: dict[str, Path], continue_: Continue, on_cpu: Model
) -> None:
    with Model(
        tiny_paths["llama"], backend="vulkan", devices=[device.name], split_mode="tensor"
    ) as model:
        assert continue_(model) == continue_(on_cpu)
        with pytest.raises(UnsupportedError, match="offload_kqv=False"):
            model.context(offload_kqv=False)


def test_a_context_larger_than_the_memory_is_refused(on_vulkan: Model) -> None:
    with pytest.raises(ContextInitError, match="Lower n_ctx"):
        on_vulkan.context(n_ctx=2**31 - 1, n_threads=1)
    on_vulkan.context(n_ctx=64, n_threads=1).close()
