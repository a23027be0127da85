"""`llamacffi serve` with several models: in the command, and in a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from llamacffi.cli import main
from llamacffi.errors import ParameterError
from llamacffi.server import ManyModels, ModelSpec
from llamacffi.server.model_config import read_model_config
from tests.servers import server_process
from tests.test_docs import DOCS, blocks
from tests.tiny_models import write_model


def config(folder: Path, text: str) -> Path:
    file = folder / "models.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_of_models(tmp_path: Path) -> None:
    text = """
        models_max = 2
        idle_timeout = 300
        [models.chat]
        model = "smollm2"
        aliases = ["gpt-4o", "gpt-4o-mini"]
        n_ctx = 8192
        pinned = true
        [models."all/minilm"]
        model = "minilm.gguf"
        pooling = "mean"
    """
    read = read_model_config(config(tmp_path, text), {"n_ctx": 512, "n_threads": 3})
    chat, minilm = read.specs
    assert (chat.id, chat.model, chat.aliases) == ("chat", "smollm2", ("gpt-4o", "gpt-4o-mini"))
    assert (chat.n_ctx, chat.n_threads, chat.pinned) == (8192, 3, True)
    assert (minilm.id, minilm.n_ctx, minilm.pooling) == ("all/minilm", 512, "mean")
    assert minilm.n_parallel == 8
    assert read.limits == {"models_max": 2, "idle_timeout": 300}


def test_what_fits(tmp_path: Path) -> None:
    text = '[models.a]\nmodel = "x"\nn_ctx = "auto"\nn_gpu_layers = "auto"\nfit_margin = 200'
    (spec,) = read_model_config(config(tmp_path, text)).specs
    fit = spec.loading.fit
    assert (fit.context.n_ctx, fit.margin, fit.context.n_seq_max) == ("auto", 200, 16)
    assert fit.context.kv_unified
    text = '[models.a]\nmodel = "x"\nn_ctx = 512\nn_gpu_layers = 7'
    (spec,) = read_model_config(config(tmp_path, text)).specs
    assert spec.loading.fit.context.n_ctx == 512
    assert spec.loading.model_options["n_gpu_layers"] == 7


def test_the_file_in_the_documentation(tmp_path: Path) -> None:
    (text,) = (block.code for block in blocks(DOCS / "server.md") if block.language == "toml")
    read = read_model_config(config(tmp_path, text))
    assert [spec.id for spec in read.specs] == ["smollm2", "text-embedding-3-small"]
    ManyModels(read.specs, **read.limits)
    page = (DOCS / "server.md").read_text(encoding="utf-8")
    missing = [each.name for each in fields(ModelSpec) if f"`{each.name}`" not in page]
    assert missing == ["id"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = ", "no TOML"),
        ("", "models: this key is missing"),
        ("[models]", "models = {}"),
        ("[models.a]", r"models\.a\.model: this key is missing"),
        ('[models.a]\nmodel = "x"\nn_cxt = 1', r"models\.a\.n_cxt: there is no such.* n_ctx"),
        ('modles = 1\n[models.a]\nmodel = "x"', "modles: there is no such key.*models_max"),
        ('[models.a]\nmodel = "x"\nn_ctx = "1"', r"models\.a\.n_ctx = '1': .*integer"),
        ('[models.a]\nmodel = "x"\nn_gpu_layers = "all"', r"models\.a\.n_gpu_layers = 'all': "),
        ('[models.a]\nmodel = "x"\nfit_margin = -1', "fit_margin=-1: choose 0 or more"),
        ('[models.a]\nmodel = "x"\nn_ctx = true', r"models\.a\.n_ctx = True: .*integer"),
        ('[models.a]\nmodel = "x"\naliases = "b"', r"models\.a\.aliases = 'b'"),
        ('[models.a]\nmodel = "x"\naliases = [1]', r"models\.a\.aliases\.0 = 1"),
        ('[models.a]\nmodel = "x"\nn_parallel = 0', "a: n_parallel=0: choose 1"),
        ('[models.a]\nmodel = "x"\nn_ctx = 99999999999999999999', "64|integer"),
        ('[models.a]\nmodel = ""', "a: a name is empty"),
        ('models_max = "2"\n[models.a]\nmodel = "x"', "models_max = '2'"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        read_model_config(config(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        read_model_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name the models"),
        (["a.gguf", "b.gguf", "--alias", "x"], "NAME=MODEL.*a, b"),
        (["a.gguf", "b.gguf", "--alias", "x=c"], "NAME=MODEL"),
        (["a.gguf", "x/a.gguf"], "a: two models have this name"),
        (["a.gguf", "b.gguf", "--models-max", "0"], "models_max=0"),
    ],
)
def test_commands_that_are_wrong(arguments: Sequence[str], words: str) -> None:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code != 0
    assert re.search(words, result.output, re.S)


def test_the_command(tmp_path: Path) -> None:
    a, b = (str(write_model(tmp_path / f"{name}.gguf", "gpt2")) for name in "ab")
    options = ["--n-ctx", "128", "--n-threads", "1", "--backend", "cpu", "--models-max", "1"]
    file = config(
        tmp_path, f'[models.a]\nmodel = "{a}"\naliases = ["one"]\n[models.b]\nmodel = "{b}"'
    )
    for arguments in ([a, b, "--alias", "one=a"], ["--config", str(file)]):
        with server_process(*arguments, *options) as served:
            with httpx.Client(base_url=served.url, timeout=60) as client:
                for name, id in [("one", "a"), ("b", "b")]:  # noqa: A001 - OpenAI's word
                    body = {"model": name, "prompt": "x", "max_tokens": 1}
                    assert client.post("/v1/completions", json=body).json()["model"] == id
                states = {
                    each["id"]: each["state"] for each in client.get("/v1/models").json()["data"]
                }
                assert states == {"a": "unloaded", "b": "loaded"}
            assert served.terminate() == 0
