"""Prompt caches: what was computed once is not computed again, and nothing else changes."""

from __future__ import annotations

import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacffi import Context, DiskPromptCache, Llama, Model, PromptCache
from llamacffi.disk_cache import PARTIAL, prompt_cache_folder
from llamacffi.errors import ParameterError, StateError
from llamacffi.prompt_cache import BasePromptCache
from tests.completions import complete, text_of
from tests.conftest import N_THREADS
from tests.tiny_models import write_model

ROOT = Path(__file__).parent.parent
Make = Callable[..., BasePromptCache]
SYSTEM = "You are a terse assistant. " * 60
# Beginnings that go on in one way only: a prompt that was restored is computed in batches of other
# sizes, whose last digits differ, and decide where two tokens are about as probable.
FIRST = SYSTEM + "Monday, Tuesday, Wednesday, Thursday,"
SECOND = SYSTEM + "One, two, three, four, five, six, seven,"
OTHER = "Quite another text about ships and harbours. " * 20 + "January, February, March, April,"
CLEAR = 0.4  # between the best two tokens, in log probability; digits make some 0.2


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(capacity: int = 1 << 30, **options: Any) -> BasePromptCache:
        if request.param == "memory":
            return PromptCache(capacity, **options)
        return DiskPromptCache(tmp_path / "prompts", capacity, **options)

    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    folder = tmp_path_factory.mktemp("prompts")
    made = {
        name: Model(write_model(folder / f"{name}.gguf", name), backend="cpu")
        for name in ("llama", "gemma3", "mamba", "jamba")
    }
    yield made
    for model in made.values():
        model.close()


@pytest.fixture
def tiny(models: dict[str, Model]) -> Iterator[Context]:
    with models["llama"].context(n_ctx=256, n_threads=1) as made:
        yield made


def tokens_of(seed: int, count: int = 120) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 100) for _ in range(count)]


def fill(context: Context, cache: BasePromptCache, tokens: list[int]) -> None:
    context.memory.clear()
    context.decode_tokens(tokens)
    cache.remember(context)
    context.memory.clear()


def lengths(cache: BasePromptCache, context: Context) -> list[int]:
    from llamacffi.prompt_cache import key_of

    entries = cache.entries(key_of(context.state_conditions()))
    return sorted(len(entry.tokens) for entry in entries)


def cached(result: dict[str, Any]) -> int:
    return int(result["usage"]["prompt_tokens_details"]["cached_tokens"])


# -- through the public door ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(model_path: Path) -> dict[str, str]:
    """The completions without a cache, each on its own."""
    texts = {}
    with Llama(model_path, backend="cpu", n_ctx=768, n_threads=N_THREADS) as llama:
        for prompt in (FIRST, SECOND, OTHER):
            llama.reset()
            result = complete(llama, prompt, logprobs=2)
            for step in result["choices"][0]["logprobs"]["top_logprobs"]:
                best, second = sorted(step.values(), reverse=True)[:2]
                assert best - second > CLEAR, f"no prompt for this: {step}"
            texts[prompt] = text_of(result)
    return texts


def test_turns_of_two_texts(model_path: Path, plain: dict[str, str], make: Make) -> None:
    options: dict[str, Any] = {"backend": "cpu", "n_ctx": 768, "n_threads": N_THREADS}
    with Llama(model_path, **options, prompt_cache=make(eager=False)) as llama:
        results = [complete(llama, prompt) for prompt in (FIRST, OTHER, FIRST, OTHER, SECOND)]
        lengths = [len(llama.tokenize(prompt)) for prompt in (FIRST, OTHER, SYSTEM)]
        assert [text_of(r) for r in results] == [
            plain[prompt] for prompt in (FIRST, OTHER, FIRST, OTHER, SECOND)
        ]
        assert [cached(r) for r in results[:2]] == [0, 0]
        assert [cached(r) for r in results[2:4]] == [lengths[0] - 1, lengths[1] - 1]
        assert cached(results[4]) >= lengths[2] - 1, "the common system prompt"
        llama.set_cache(None)
        llama.reset()
        assert cached(complete(llama, FIRST)) == 0


def test_a_cache_that_is_eager_serves_the_next_one(
    model_path: Path, plain: dict[str, str], make: Make
) -> None:
    options: dict[str, Any] = {"backend": "cpu", "n_ctx": 768, "n_threads": N_THREADS}
    cache = make(eager=True)
    with Llama(model_path, **options, prompt_cache=cache) as llama:
        complete(llama, FIRST)
    with Llama(model_path, **options) as llama:
        llama.set_cache(cache)
        result = complete(llama, SECOND)
        assert text_of(result) == plain[SECOND]
        assert cached(result) >= len(llama.tokenize(SYSTEM)) - 1


def test_saving_and_loading_a_llama(llama: Llama, plain: dict[str, str]) -> None:
    llama.reset()
    prompt = FIRST[-800:]
    expected = text_of(complete(llama, prompt))
    state = llama.save_state()
    assert isinstance(state, bytes)
    llama.reset()
    llama.load_state(state)
    result = complete(llama, prompt)
    assert (text_of(result), cached(result)) == (expected, len(llama.tokenize(prompt)) - 1)
    with pytest.raises(StateError):
        llama.load_state(state[:-1])


# -- prefixes -------------------------------------------------------------------------------------


def test_the_longest_prefix_comes_back(tiny: Context, make: Make) -> None:
    cache, base = make(), tokens_of(1)
    for tail in (tokens_of(2, 20), tokens_of(3, 50)):
        fill(tiny, cache, [*base, *tail])
    fill(tiny, cache, tokens_of(4))
    assert cache.restore(tiny, [*base, *tokens_of(3, 50)[:30], 1]) == 150
    assert tiny.memory.position_max() == 149
    assert cache.restore(tiny, [*base, *tokens_of(5, 9)]) == 120, "what is there is good enough"
    assert tiny.memory.position_max() == 149
    assert cache.restore(tiny, tokens_of(6)) == 0
    assert cache.restore(tiny, [*tokens_of(4), 5], sequence=0) == 120


def test_an_exact_prompt_leaves_a_token_to_compute(tiny: Context, make: Make) -> None:
    cache, tokens = make(), tokens_of(1)
    fill(tiny, cache, tokens)
    assert cache.restore(tiny, tokens) == len(tokens) - 1


def test_little_is_not_worth_it(tiny: Context, make: Make) -> None:
    cache = make()
    fill(tiny, cache, tokens_of(1))
    assert cache.restore(tiny, [*tokens_of(1)[:60], *tokens_of(2)]) == 0
    tiny.decode_tokens(tokens_of(1)[:80])
    assert cache.restore(tiny, tokens_of(1)) == 80


def test_what_would_be_lost_is_kept_first(tiny: Context, make: Make) -> None:
    cache = make()
    fill(tiny, cache, tokens_of(1))
    tiny.decode_tokens(tokens_of(2))
    cache.restore(tiny, tokens_of(1))
    assert cache.restore(tiny, [*tokens_of(2), 1]) == 120


def test_a_longer_entry_replaces_its_prefix(tiny: Context, make: Make) -> None:
    cache, tokens = make(), tokens_of(1)
    for count in (80, 120, 100, 120):
        fill(tiny, cache, tokens[:count])
    assert lengths(cache, tiny) == [120]


def test_what_is_not_known_is_not_kept(tiny: Context, make: Make) -> None:
    cache = make()
    cache.remember(tiny)
    tiny.decode_tokens(tokens_of(1))
    tiny.memory.forget_tokens()
    cache.remember(tiny)
    assert lengths(cache, tiny) == []


@pytest.mark.parametrize("architecture", ["gemma3", "mamba", "jamba"])
def test_memories_that_cannot_go_back(
    models: dict[str, Model], architecture: str, make: Make
) -> None:
    model = models[architecture]
    cache = make()
    with model.context(n_ctx=256, n_threads=1) as context:
        count = model.vocab.n_tokens
        base = [token % count for token in tokens_of(1, 100)]
        longer = [*base, *(token % count for token in tokens_of(2, 60))]
        for tokens in (base, longer):
            fill(context, cache, tokens)
        assert lengths(cache, context) == [100, 160], "the short one is not in the long one"
        for prompt, expected in (([*longer, 5], 160), ([*longer[:130], 5], 100)):
            context.memory.clear()
            assert cache.restore(context, prompt) == expected
            context.decode_tokens(prompt[expected:])
            logits = context.logits().copy()
            with model.context(n_ctx=256, n_threads=1) as clean:
                clean.decode_tokens(prompt[:expected])
                clean.decode_tokens(prompt[expected:])
                assert (clean.logits() == logits).all()
        context.memory.clear()
        assert cache.restore(context, base[:90]) == 0


def test_models_and_parameters_are_kept_apart(models: dict[str, Model], make: Make) -> None:
    cache = make()
    with models["llama"].context(n_ctx=256, n_threads=1) as one:
        fill(one, cache, tokens_of(1))
    for name, options in (("llama", {"type_k": "f32"}), ("gemma3", {})):
        with models[name].context(n_ctx=256, n_threads=1, **options) as other:
            assert cache.restore(other, tokens_of(1)) == 0


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba", "jamba"])
def test_any_order_of_texts(models: dict[str, Model], architecture: str, make: Make) -> None:
    """Texts that branch off each other anywhere, in any order: the answers are those without."""
    chance = random.Random(architecture)
    count = models[architecture].vocab.n_tokens
    texts = [[token % count for token in tokens_of(0, 70)]]
    for seed in range(1, 12):
        start = chance.choice(texts)
        cut = chance.choice([len(start), chance.randrange(1, len(start))])
        more = tokens_of(seed, chance.choice([3, 70, 120]))
        texts.append([*start[:cut], *(token % count for token in more)][:220])
    options: dict[str, Any] = {"backend": "cpu", "n_ctx": 256, "n_threads": 1}
    path = models[architecture].path
    cache = make(300_000, eager=chance.random() < 0.5)
    restored = 0
    with Llama(path, **options) as clean, Llama(path, **options, prompt_cache=cache) as llama:
        for _ in range(60):
            prompt = chance.choice(texts)
            asked = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
            held = llama.context.memory.common_prefix(prompt)
            found = complete(llama, prompt, **asked)
            restored += cached(found) > held
            clean.reset()
            assert text_of(found) == text_of(complete(clean, prompt, **asked))
            remembered = llama.context.memory.tokens()
            assert remembered[: len(prompt)] == prompt
            if len(remembered) < 200:  # as in a conversation
                texts[chance.randrange(len(texts))] = [*remembered, *prompt[:5]]
    assert restored, "nothing came from the cache"


def test_contexts_of_other_sizes_share_a_cache(
    models: dict[str, Model], make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cache, tokens = make(), tokens_of(1, 400)
    with models["llama"].context(n_ctx=512, n_threads=1) as large:
        fill(large, cache, tokens)
        with models["llama"].context(n_ctx=256, n_threads=1) as small:
            assert cache.restore(small, tokens[:200]) == 0, "it does not fit as a whole"
            fill(small, cache, tokens_of(2))
        assert cache.restore(large, tokens) == 399
        assert cache.restore(large, tokens_of(2)) == 119
    assert "is of no use" not in caplog.text


def test_no_room_beside_other_sequences(
    models: dict[str, Model], make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cache, tokens = make(), tokens_of(1, 150)
    with models["llama"].context(n_ctx=256, n_threads=1, n_seq_max=2, kv_unified=True) as context:
        fill(context, cache, tokens)
        context.decode_tokens(tokens_of(2, 150), sequence=1)
        assert cache.restore(context, tokens) == 0
        assert "is of no use" in caplog.text
        context.memory.remove(1)
        assert cache.restore(context, tokens) == 149


# -- bounds ---------------------------------------------------------------------------------------


def test_the_least_recently_used_go_first(tiny: Context, make: Make) -> None:
    probe = make()
    fill(tiny, probe, tokens_of(1))
    size = probe.size  # type: ignore[attr-defined]  # both kinds have it
    probe.clear()
    cache = make(int(3.5 * size))
    for seed in (1, 2, 3):
        fill(tiny, cache, tokens_of(seed))
    assert cache.restore(tiny, tokens_of(1)) == 119
    tiny.memory.clear()
    fill(tiny, cache, tokens_of(4))
    assert cache.size <= 3.5 * size  # type: ignore[attr-defined]  # both kinds have it
    found = []
    for seed in (1, 2, 3, 4):
        tiny.memory.clear()
        found.append(cache.restore(tiny, tokens_of(seed)))
    assert found == [119, 0, 119, 119]
    small = make(size // 2)
    small.clear()
    fill(tiny, small, tokens_of(1))
    assert lengths(small, tiny) == []


def test_capacities(tmp_path: Path) -> None:
    for capacity in (0, -1):
        with pytest.raises(ParameterError):
            PromptCache(capacity)
        with pytest.raises(ParameterError):
            DiskPromptCache(tmp_path, capacity)
    assert "0 entries" in repr(PromptCache())


def test_what_is_no_cache(llama: Llama, model_path: Path) -> None:
    with pytest.raises(ParameterError, match="is no prompt cache of llamacffi"):
        llama.set_cache({})  # type: ignore[arg-type]  # the mistake under test


def test_threads_share_a_cache(models: dict[str, Model], make: Make) -> None:
    cache = make()
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with models["llama"].context(n_ctx=256, n_threads=1) as context:
                for step in range(8):
                    tokens = tokens_of((seed + step) % 3)
                    cache.restore(context, tokens)
                    kept = context.memory.common_prefix(tokens)
                    context.memory.remove(0, kept)
                    context.decode_tokens([*tokens[kept:], 1])
                    cache.remember(context)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- the folder -----------------------------------------------------------------------------------


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMACFFI_CACHE", str(tmp_path / "cache"))
    cache = DiskPromptCache()
    assert cache.folder == tmp_path / "cache" / "prompts"
    if os.name == "posix":
        assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert cache.eager
    monkeypatch.delenv("LLAMACFFI_CACHE")
    assert "llamacffi" in str(prompt_cache_folder())


def test_damaged_files_are_dropped(
    tmp_path: Path, tiny: Context, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for damage in ("head", "cut", "body", "empty", "name"):
        fill(tiny, DiskPromptCache(tmp_path), tokens_of(1))
        (file,) = tmp_path.glob("*.state")
        data = bytearray(file.read_bytes())
        if damage == "head":
            data[70] ^= 255
        elif damage == "cut":
            del data[-100:]
        elif damage == "body":
            data[-5] ^= 1
        elif damage == "empty":
            data.clear()
        if damage == "name":
            tiny.decode_tokens(tokens_of(1))
            tiny.save_state_file(file)
            tiny.memory.clear()
        else:
            file.write_bytes(data)
        caplog.clear()
        assert DiskPromptCache(tmp_path).restore(tiny, tokens_of(1)) == 0, damage
        assert "is dropped from the prompt cache" in caplog.text, damage
        assert list(tmp_path.iterdir()) == []


def test_files_that_vanish(tmp_path: Path, tiny: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskPromptCache(tmp_path)
    fill(tiny, cache, tokens_of(1))
    (file,) = tmp_path.glob("*.state")
    entries = cache.entries

    def entries_then_gone(key: str) -> Any:
        found = entries(key)
        file.unlink()
        return found

    monkeypatch.setattr(cache, "entries", entries_then_gone)
    assert cache.restore(tiny, tokens_of(1)) == 0
    monkeypatch.undo()
    assert cache.restore(tiny, tokens_of(1)) == 0


def test_a_full_disk_costs_no_answer(
    tmp_path: Path,
    tiny: Context,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = DiskPromptCache(tmp_path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    fill(tiny, cache, tokens_of(1))
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleaned_up(tmp_path: Path, tiny: Context) -> None:
    cache = DiskPromptCache(tmp_path)
    old, new = tmp_path / f".a.state.1{PARTIAL}", tmp_path / f".b.state.2{PARTIAL}"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    fill(tiny, cache, tokens_of(1))
    assert (old.exists(), new.exists()) == (False, True)


CHILD = """
import os, random, signal, sys
from pathlib import Path
from llamacffi import DiskPromptCache, Model
model_path, folder, seed, die = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "die"
cache = DiskPromptCache(folder, 60_000)
chance = random.Random(seed)
def text(number):
    chosen = random.Random(number)
    return [chosen.randrange(3, 100) for _ in range(120)]
used = 0
model = Model(model_path, backend="cpu")
context = model.context(n_ctx=256, n_threads=1)
for step in range(60):
    tokens = text(chance.randrange(5))
    if chance.random() < 0.5:
        context.memory.clear()
    kept = min(cache.restore(context, tokens), 119)
    used += kept > 0
    context.memory.remove(0, kept)
    context.decode_tokens(tokens[kept:])
    if die and step == 20:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        context.decode_tokens(text(1000)[:30])
    cache.remember(context)
    assert context.memory.tokens()[:120] == tokens
print(used, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_processes_share_a_folder_and_one_is_killed(
    tmp_path: Path, models: dict[str, Model], tiny: Context
) -> None:
    folder = tmp_path / "prompts"
    command = [sys.executable, "-W", "error", "-c", CHILD, str(models["llama"].path), str(folder)]
    children = [
        subprocess.Popen([*command, str(seed), fate], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for seed, fate in ((1, "live"), (2, "live"), (3, "die"))
    ]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, -signal.SIGKILL]
    assert all(int(text) > 0 for text in outputs[:2]), "nothing was ever restored"
    assert len(list(folder.glob(f".*{PARTIAL}"))) == 1, "it was not killed while writing"
    cache = DiskPromptCache(folder, 60_000)
    assert 0 < cache.size <= 60_000
    for path in folder.glob("*.state"):
        tiny.load_state_file(path)  # each is whole
