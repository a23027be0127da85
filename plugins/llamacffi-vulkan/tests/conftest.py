"""What the tests share: a device to name, models to compute with, and how they continue a prompt.

They need a Vulkan device. On a machine without a GPU that is Mesa's software renderer, which
`ci/tools/vulkan` installs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_models import write_model

import llamacffi
from llamacffi import Context, Device, Model
from llamacffi.generation import Generation, run
from llamacffi.sampling import SamplingParams

PROMPT = "abc the def"
Continue = Callable[..., str]
Child = Callable[..., Any]
# A child prints the value of `answer`, which the code given sets.
FRAME = """
import json
import llamacffi
from llamacffi import Model
from llamacffi.errors import LlamaCffiError

def refusal(call):
    try:
        call().close()
    except LlamaCffiError as error:
        return [type(error).__name__, str(error)]
    return None

def report(probe=False):
    return next(r for r in llamacffi.backends(probe) if r.name == "vulkan")

{code}
print(json.dumps(answer))
"""


@pytest.fixture(scope="session")
def device() -> Device:
    """A GPU, or the software renderer where there is none."""
    report = next(r for r in llamacffi.backends() if r.name == "vulkan")
    assert report.installed, f"{report}; ci/backend vulkan builds and installs it"
    found = [d for library in report.libraries for d in library.devices if d.type != "cpu"]
    assert found, f"{report}; ci/tools/vulkan installs a software renderer"
    return found[0]


@pytest.fixture(scope="session")
def tiny_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights in f32, by architecture."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_model(folder / f"{name}.gguf", name)
        for name in ("llama", "gpt2", "falcon", "bert")
    }


@pytest.fixture
def on_vulkan(device: Device, tiny_paths: dict[str, Path]) -> Iterator[Model]:
    """The tiny llama, all of it on the device."""
    with Model(tiny_paths["llama"], backend="vulkan", devices=[device.name]) as loaded:
        yield loaded


@pytest.fixture
def on_cpu(tiny_paths: dict[str, Path]) -> Iterator[Model]:
    with Model(tiny_paths["llama"], backend="cpu") as loaded:
        yield loaded


def continue_in(context: Context, prompt: str, n_tokens: int, **sampling: Any) -> str:
    model = context.model
    chain = SamplingParams(**sampling).chain(model)
    tokens = model.vocab.tokenize(prompt)
    generation = Generation(model.vocab, chain, tokens, max_tokens=n_tokens, ignore_eos=True)
    return "".join(step.text for step in run(context, generation))


@pytest.fixture(scope="session")
def continue_() -> Continue:
    """A function: how a model continues a prompt, greedily unless told otherwise."""

    def call(
        model: Model, prompt: str = PROMPT, n_tokens: int = 16,
        sampling: Mapping[str, Any] = {"temperature": 0}, **parameters: Any,
    ) -> str:  # fmt: skip
        with model.context(**{"n_ctx": 128, "n_threads": 1, **parameters}) as context:
            return continue_in(context, prompt, n_tokens, **sampling)

    return call


@pytest.fixture(scope="session")
def child() -> Child:
    """A function: run code in a process of its own, whose Vulkan is set up in the environment."""

    def call(code: str, *arguments: object, **environment: str) -> Any:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GGML_VK_", "VK_"))}
        done = subprocess.run(
            [sys.executable, "-c", FRAME.format(code=code), *map(str, arguments)],
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call
