"""Options about sampling, by llama.cpp's names, for every command that generates."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llamacffi.errors import ParameterError
from llamacffi.sampling.params import DEFAULTS, SamplingParams

__all__ = ["PARAMETERS", "changed", "is_given", "sampling_given", "sampling_options"]

# Our name, llama.cpp's option names, type, help.
_OPTIONS: tuple[tuple[str, tuple[str, ...], Any, str], ...] = (
    ("temperature", ("--temp", "--temperature"), float, "0 for the most probable token."),
    ("top_k", ("--top-k",), int, "Keep the k most probable tokens; 0 for all."),
    ("top_p", ("--top-p",), float, "Keep the tokens that make up p; 1 for all."),
    ("min_p", ("--min-p",), float, "Keep tokens this probable next to the best; 0 for all."),
    ("typical_p", ("--typical", "--typical-p"), float, "Locally typical sampling; 1 is off."),
    ("top_n_sigma", ("--top-nsigma", "--top-n-sigma"), float, "In standard deviations."),
    ("xtc_probability", ("--xtc-probability",), float, "0 is off."),
    ("xtc_threshold", ("--xtc-threshold",), float, "Above 0.5 is off."),
    ("min_keep", ("--min-keep",), int, "Tokens that truncating samplers leave."),
    ("repeat_penalty", ("--repeat-penalty",), float, "1 is off."),
    ("frequency_penalty", ("--frequency-penalty",), float, "0 is off."),
    ("presence_penalty", ("--presence-penalty",), float, "0 is off."),
    ("penalty_last_n", ("--repeat-last-n",), int, "Tokens that penalties look at; -1 for all."),
    ("dry_multiplier", ("--dry-multiplier",), float, "0 is off."),
    ("dry_base", ("--dry-base",), float, "Growth of DRY's penalty."),
    ("dry_allowed_length", ("--dry-allowed-length",), int, "Tokens that may be repeated."),
    ("dry_penalty_last_n", ("--dry-penalty-last-n",), int, "-1 for all."),
    ("dynatemp_range", ("--dynatemp-range",), float, "0 is off."),
    ("dynatemp_exponent", ("--dynatemp-exp",), float, "Of the dynamic temperature."),
    ("mirostat_mode", ("--mirostat",), int, "1 or 2; 0 is off."),
    ("mirostat_eta", ("--mirostat-lr",), float, "Learning rate, eta."),
    ("mirostat_tau", ("--mirostat-ent",), float, "Target entropy, tau."),
    ("adaptive_target", ("--adaptive-target",), float, "Probability of picks; negative is off."),
    ("adaptive_decay", ("--adaptive-decay",), float, "0 to 0.99."),
    ("seed", ("-s", "--seed"), int, "For the same text each time."),
)

PARAMETERS = tuple(name for name, *_ in _OPTIONS)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as one argument, `sampling`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        chosen = {name: given.pop(name) for name, *_ in _OPTIONS}
        chosen |= _structure(given)
        order = given.pop("samplers")
        if order is not None:
            chosen["samplers"] = tuple(filter(None, re.split("[;,]", order)))
        breakers = given.pop("dry_sequence_breaker")
        if breakers:
            chosen["dry_sequence_breakers"] = () if breakers == ("none",) else breakers
        chosen["logit_bias"] = dict(map(_bias, given.pop("logit_bias")))
        values = {name: value for name, value in chosen.items() if value is not None}
        command(sampling=SamplingParams(**values), **given)

    decorators = [
        click.option(
            *flags,
            name,
            type=kind,
            help=text,
            show_default=True,
            default=getattr(DEFAULTS, name),
        )
        for name, flags, kind, text in _OPTIONS
    ]
    decorators += [
        click.option("--samplers", help="Their order, as in 'penalties;top_k;temperature'."),
        click.option(
            "--dry-sequence-breaker", multiple=True, help="'none' for none; may be repeated."
        ),
        click.option(
            "-l", "--logit-bias", multiple=True, metavar="TOKEN(+/-)BIAS", help="May be repeated."
        ),
        click.option("--grammar", help="GBNF rules that the text must follow."),
        click.option("--grammar-file", type=_FILE, help="A file with such rules."),
        click.option("-j", "--json-schema", help="A JSON schema that the text must follow."),
        click.option("-jf", "--json-schema-file", type=_FILE, help="A file with one."),
        click.option("--regex", help="An expression that the text must match."),
        click.option("--structured-engine", default="auto", show_default=True),
    ]
    for decorate in reversed(decorators):
        wrapped = decorate(wrapped)
    return wrapped


def sampling_given(context: click.Context) -> bool:
    """Whether any of these options is on the command line."""
    others = (
        "samplers", "dry_sequence_breaker", "logit_bias", "grammar", "grammar_file",
        "json_schema", "json_schema_file", "regex", "structured_engine",
    )  # fmt: skip
    return any(is_given(context, name) for name in (*PARAMETERS, *others))


def is_given(context: click.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def changed(sampling: SamplingParams, name: str, text: str) -> SamplingParams:
    """Sampling parameters with another value of one, as somebody typed it.

    Args:
        sampling: The parameters as they are.
        name: One of `PARAMETERS`, or a name of the option.
        text: The value; "none" for none, where that is the default.

    Raises:
        ParameterError: There is no such parameter, or it is no number.
    """
    wanted = _bare(name)
    for parameter, flags, kind, _ in _OPTIONS:
        if wanted not in (parameter, *map(_bare, flags)):
            continue
        none = text == "none" and getattr(DEFAULTS, parameter) is None
        try:
            value: Any = None if none else kind(text)
            return dataclasses.replace(sampling, **{parameter: value})
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise ParameterError(f"{parameter}={text!r}: give {number}.") from None
    near = difflib.get_close_matches(wanted, PARAMETERS) or PARAMETERS
    raise ParameterError(f"No parameter is called {name!r}. There is {', '.join(near)}.")


def _bare(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _structure(given: dict[str, Any]) -> dict[str, Any]:
    grammar, grammar_file = given.pop("grammar"), given.pop("grammar_file")
    schema, schema_file = given.pop("json_schema"), given.pop("json_schema_file")
    if schema_file is not None:
        schema = schema_file.read_text(encoding="utf-8")
    return {
        "grammar": grammar if grammar_file is None else grammar_file,
        "json_schema": schema,
        "regex": given.pop("regex"),
        "structured_engine": given.pop("structured_engine"),
    }


def _bias(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)([+-](?:\d+(?:\.\d*)?|inf))", text)
    if match is None:
        raise click.BadParameter(f"{text!r}: write as 15043+1 or 15043-inf.")
    return int(match[1]), float(match[2])
