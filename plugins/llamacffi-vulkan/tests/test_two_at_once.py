"""A model on the CPU and one on Vulkan compute at the same time, each as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacffi import Device, Model

Continue = Callable[..., str]
GREEDY = {"temperature": 0}
SEEDED = {"temperature": 0.8, "top_k": 20, "seed": 7}
ROUNDS = 4


def together(calls: list[Callable[[], str]]) -> list[str]:
    """What each call returns, all of them run at the same time."""
    found: list[str | BaseException] = [""] * len(calls)
    start = threading.Barrier(len(calls))

    def run(index: int) -> None:
        try:
            start.wait()
            found[index] = calls[index]()
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [text if isinstance(text, str) else repr(text) for text in found]


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_results_are_those_alone(
    sampling: dict[str, object], on_cpu: Model, on_vulkan: Model, continue_: Continue
) -> None:
    def calls(round_: int) -> list[Callable[[], str]]:
        prompt = f"abc the def {round_}"
        return [
            lambda: continue_(on_cpu, prompt, 64, sampling),
            lambda: continue_(on_vulkan, prompt, 64, sampling),
        ]

    for round_ in range(ROUNDS):
        alone = [call() for call in calls(round_)]
        assert together(calls(round_)) == alone


def test_four_threads_on_two_backends_and_two_models(
    device: Device, tiny_paths: dict[str, Path], on_cpu: Model, on_vulkan: Model,
    continue_: Continue,
) -> None:  # fmt: skip
    with (
        Model(tiny_paths["gpt2"], backend="cpu") as cpu,
        Model(tiny_paths["gpt2"], backend="vulkan", devices=[device.name]) as vulkan,
    ):
        calls: list[Callable[[], str]] = [
            (lambda model=model: continue_(model, n_tokens=32))  # type: ignore[misc]  # bound early
            for model in (on_cpu, on_vulkan, cpu, vulkan)
        ]
        alone = [call() for call in calls]
        for _ in range(ROUNDS):
            assert together(calls) == alone


def test_loading_and_closing_one_does_not_disturb_the_other(
    device: Device, tiny_paths: dict[str, Path], on_cpu: Model, continue_: Continue
) -> None:
    def reload() -> str:
        texts = set()
        for _ in range(8):
            with Model(tiny_paths["llama"], backend="vulkan", devices=[device.name]) as model:
                texts.add(continue_(model, n_tokens=4))
        return "".join(texts)

    long = continue_(on_cpu, n_tokens=100)
    short = continue_(on_cpu, n_tokens=4)
    assert together([lambda: continue_(on_cpu, n_tokens=100), reload]) == [long, short]


def test_the_libraries_share_no_statics(on_cpu: Model, on_vulkan: Model) -> None:
    first, second = on_cpu.library, on_vulkan.library
    assert first.lib.llamacffi_log_pending() != second.lib.llamacffi_log_pending()
    for name in ("llama_log_set", "ggml_time_us", "llama_backend_init", "ggml_backend_dev_count"):
        addresses = {
            int(library.ffi.cast("uintptr_t", library.ffi.addressof(library.lib, name)))
            for library in (first, second)
        }
        assert len(addresses) == 2, name
    assert [first.lib.ggml_backend_dev_count(), second.lib.ggml_backend_dev_count()] == [1, 2]
