"""The architectures of the tiny models: their hyperparameters and the shapes of their tensors.

The tensor names and shapes follow each architecture's load_arch_tensors in llama.cpp's src/models/;
dimensions are in ggml's order, fastest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["ARCHITECTURES", "RERANKER", "Architecture", "Sizes"]

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a tiny model; an architecture ignores what it does not have."""

    n_layer: int = 2
    n_embd: int = 32
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 64
    n_ctx: int = 256
    n_expert: int = 4
    n_expert_used: int = 2

    @property
    def head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv(self) -> int:
        return self.head * self.n_head_kv


@dataclass(frozen=True)
class Architecture:
    """How one architecture is put together."""

    vocab: str
    metadata: Callable[[Sizes], dict[str, Any]]
    shapes: Callable[[Sizes, int], Shapes]


def _transformer(s: Sizes, norm: str = "rms") -> dict[str, Any]:
    epsilon = "layer_norm_rms_epsilon" if norm == "rms" else "layer_norm_epsilon"
    return {
        "feed_forward_length": s.n_ff,
        "attention.head_count": s.n_head,
        "attention.head_count_kv": s.n_head_kv,
        f"attention.{epsilon}": 1e-5,
        "rope.dimension_count": s.head,
    }


def _attention(s: Sizes, prefix: str) -> Shapes:
    return {
        f"{prefix}attn_q.weight": (s.n_embd, s.n_embd),
        f"{prefix}attn_k.weight": (s.n_embd, s.kv),
        f"{prefix}attn_v.weight": (s.n_embd, s.kv),
        f"{prefix}attn_output.weight": (s.n_embd, s.n_embd),
    }


def _feed_forward(s: Sizes, prefix: str, *, gate: bool = True, bias: bool = False) -> Shapes:
    shapes: Shapes = {
        f"{prefix}ffn_up.weight": (s.n_embd, s.n_ff),
        f"{prefix}ffn_down.weight": (s.n_ff, s.n_embd),
    }
    if gate:
        shapes[f"{prefix}ffn_gate.weight"] = (s.n_embd, s.n_ff)
    if bias:
        shapes |= {f"{prefix}ffn_up.bias": (s.n_ff,), f"{prefix}ffn_down.bias": (s.n_embd,)}
    return shapes


def _norm(s: Sizes, *names: str, bias: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (s.n_embd,) for name in names}
    if bias:
        shapes |= {f"{name}.bias": (s.n_embd,) for name in names}
    return shapes


def _llama(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", f"{p}ffn_norm") | _attention(s, p) | _feed_forward(s, p)
    return shapes | _norm(s, "output_norm") | {"output.weight": (s.n_embd, n_vocab)}


def _qwen3moe(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", f"{p}ffn_norm") | _attention(s, p)
        shapes |= {
            f"{p}attn_q_norm.weight": (s.head,),
            f"{p}attn_k_norm.weight": (s.head,),
            f"{p}ffn_gate_inp.weight": (s.n_embd, s.n_expert),
            f"{p}ffn_gate_exps.weight": (s.n_embd, s.n_ff, s.n_expert),
            f"{p}ffn_down_exps.weight": (s.n_ff, s.n_embd, s.n_expert),
            f"{p}ffn_up_exps.weight": (s.n_embd, s.n_ff, s.n_expert),
        }
    return shapes | _norm(s, "output_norm") | {"output.weight": (s.n_embd, n_vocab)}


def _gpt2(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {
        "token_embd.weight": (s.n_embd, n_vocab),
        "position_embd.weight": (s.n_embd, s.n_ctx),
    }
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", f"{p}ffn_norm", bias=True)
        shapes |= {
            f"{p}attn_qkv.weight": (s.n_embd, 3 * s.n_embd),
            f"{p}attn_qkv.bias": (3 * s.n_embd,),
            f"{p}attn_output.weight": (s.n_embd, s.n_embd),
            f"{p}attn_output.bias": (s.n_embd,),
        }
        shapes |= _feed_forward(s, p, gate=False, bias=True)
    return shapes | _norm(s, "output_norm", bias=True)


def _falcon(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", bias=True) | _feed_forward(s, p, gate=False)
        shapes |= {
            f"{p}attn_qkv.weight": (s.n_embd, s.n_embd + 2 * s.head),
            f"{p}attn_output.weight": (s.n_embd, s.n_embd),
        }
    return shapes | _norm(s, "output_norm", bias=True) | {"output.weight": (s.n_embd, n_vocab)}


def _phi3(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", f"{p}ffn_norm")
        shapes |= {
            f"{p}attn_qkv.weight": (s.n_embd, s.n_embd + 2 * s.kv),
            f"{p}attn_output.weight": (s.n_embd, s.n_embd),
            f"{p}ffn_up.weight": (s.n_embd, 2 * s.n_ff),
            f"{p}ffn_down.weight": (s.n_ff, s.n_embd),
        }
    return shapes | _norm(s, "output_norm") | {"output.weight": (s.n_embd, n_vocab)}


def _gemma3(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= _norm(s, *(p + name for name in norms)) | _attention(s, p) | _feed_forward(s, p)
        shapes |= {f"{p}attn_q_norm.weight": (s.head,), f"{p}attn_k_norm.weight": (s.head,)}
    return shapes | _norm(s, "output_norm")


SSM_STATE, SSM_CONV, SSM_RANK = 8, 4, 4


def _state_space(s: Sizes, prefix: str) -> Shapes:
    inner = 2 * s.n_embd  # upstream supports no other expansion
    return {
        f"{prefix}ssm_in.weight": (s.n_embd, 2 * inner),
        f"{prefix}ssm_conv1d.weight": (SSM_CONV, inner),
        f"{prefix}ssm_conv1d.bias": (inner,),
        f"{prefix}ssm_x.weight": (inner, SSM_RANK + 2 * SSM_STATE),
        f"{prefix}ssm_dt.weight": (SSM_RANK, inner),
        f"{prefix}ssm_dt.bias": (inner,),
        f"{prefix}ssm_a": (SSM_STATE, inner),
        f"{prefix}ssm_d": (inner,),
        f"{prefix}ssm_out.weight": (inner, s.n_embd),
    }


def _mamba(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm") | _state_space(s, p)
    return shapes | _norm(s, "output_norm")


def _jamba(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_norm", f"{p}ffn_norm") | _feed_forward(s, p)
        if i % 2:  # a layer with attention after each one with a state
            shapes |= _attention(s, p)
        else:
            shapes |= _state_space(s, p) | {
                f"{p}ssm_dt_norm.weight": (SSM_RANK,),
                f"{p}ssm_b_norm.weight": (SSM_STATE,),
                f"{p}ssm_c_norm.weight": (SSM_STATE,),
            }
    return shapes | _norm(s, "output_norm")


T5_BUCKETS = 8


def _t5(s: Sizes, n_vocab: int) -> Shapes:
    full = (s.n_embd, s.n_embd)
    shapes: Shapes = {"token_embd.weight": (s.n_embd, n_vocab)}
    for i in range(s.n_layer):
        for side, blocks in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
            p = f"{side}.blk.{i}."
            for block in blocks:
                shapes |= {f"{p}{block}_{part}.weight": full for part in ("q", "k", "v", "o")}
            shapes |= _norm(s, f"{p}ffn_norm", *(f"{p}{block}_norm" for block in blocks))
            shapes |= _feed_forward(s, p, gate=False)
            if i == 0:
                shapes[f"{p}attn_rel_b.weight"] = (s.n_head, T5_BUCKETS)
    return shapes | _norm(s, "enc.output_norm", "dec.output_norm")


def _bert(s: Sizes, n_vocab: int) -> Shapes:
    shapes: Shapes = {
        "token_embd.weight": (s.n_embd, n_vocab),
        "token_types.weight": (s.n_embd, 2),
        "position_embd.weight": (s.n_embd, s.n_ctx),
    } | _norm(s, "token_embd_norm", bias=True)
    for i in range(s.n_layer):
        p = f"blk.{i}."
        shapes |= _norm(s, f"{p}attn_output_norm", f"{p}layer_output_norm", bias=True)
        shapes |= {f"{p}attn_{part}.weight": (s.n_embd, s.n_embd) for part in "qkv"}
        shapes |= {f"{p}attn_{part}.bias": (s.n_embd,) for part in ("q", "k", "v", "output")}
        shapes |= {f"{p}attn_output.weight": (s.n_embd, s.n_embd)}
        shapes |= _feed_forward(s, p, gate=False, bias=True)
    return shapes


N_CLASSES = 2


def _bert_classifier(s: Sizes, n_vocab: int) -> Shapes:
    return _bert(s, n_vocab) | {
        "cls.weight": (s.n_embd, s.n_embd),
        "cls.bias": (s.n_embd,),
        "cls.output.weight": (s.n_embd, N_CLASSES),
        "cls.output.bias": (N_CLASSES,),
    }


def _multi_head(s: Sizes, norm: str = "layer") -> dict[str, Any]:
    return _transformer(s, norm) | {"attention.head_count_kv": s.n_head}


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _transformer, _llama),
    "qwen3moe": Architecture(
        "gpt2",
        lambda s: (
            _transformer(s)
            | {
                "expert_count": s.n_expert,
                "expert_used_count": s.n_expert_used,
                "expert_feed_forward_length": s.n_ff,
                "attention.key_length": s.head,
                "attention.value_length": s.head,
            }
        ),
        _qwen3moe,
    ),
    "gpt2": Architecture("gpt2", _multi_head, _gpt2),
    "falcon": Architecture(
        "gpt2", lambda s: _transformer(s, "layer") | {"attention.head_count_kv": 1}, _falcon
    ),
    "phi3": Architecture("llama", _transformer, _phi3),
    "gemma3": Architecture(
        "llama",
        lambda s: (
            _transformer(s)
            | {
                "attention.key_length": s.head,
                "attention.value_length": s.head,
                "attention.sliding_window": 16,
                # One local and one global layer: the memory is then a pair of caches (iSWA).
                "attention.sliding_window_pattern": 2,
            }
        ),
        _gemma3,
    ),
    "mamba": Architecture(
        "gpt2",
        lambda s: {
            "attention.layer_norm_rms_epsilon": 1e-5,
            "ssm.conv_kernel": SSM_CONV,
            "ssm.inner_size": 2 * s.n_embd,
            "ssm.state_size": SSM_STATE,
            "ssm.time_step_rank": SSM_RANK,
        },
        _mamba,
    ),
    "jamba": Architecture(
        "gpt2",
        lambda s: (
            _transformer(s)
            | {
                "attention.head_count_kv": [
                    0 if i % 2 == 0 else s.n_head_kv for i in range(s.n_layer)
                ],
                "ssm.conv_kernel": SSM_CONV,
                "ssm.inner_size": 2 * s.n_embd,
                "ssm.state_size": SSM_STATE,
                "ssm.time_step_rank": SSM_RANK,
            }
        ),
        _jamba,
    ),
    "t5": Architecture(
        "t5",
        lambda s: (
            _multi_head(s, "rms")
            | {
                "attention.relative_buckets_count": T5_BUCKETS,
                "attention.key_length": s.head,
                "attention.value_length": s.head,
                "decoder_start_token_id": 0,
            }
        ),
        _t5,
    ),
    "bert": Architecture(
        "bert",
        lambda s: _multi_head(s) | {"attention.causal": False, "pooling_type": 1},
        _bert,
    ),
}
RERANKER = Architecture(
    "bert",
    lambda s: (
        _multi_head(s)
        | {
            "attention.causal": False,
            "pooling_type": 4,
            "classifier.output_labels": ["no", "yes"],
        }
    ),
    _bert_classifier,
)
