"""`llamacffi backends`."""

from __future__ import annotations

import dataclasses
import json

import click

__all__ = ["backends"]


@click.command()
@click.option("--probe", is_flag=True, help="Open every library in a child process.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(probe: bool, as_json: bool) -> None:
    """List the backends: what is installed, what is usable, and if not, why."""
    import llamacffi

    reports = llamacffi.backends(probe=probe)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(r) for r in reports], indent=2, default=str))
        return
    for report in reports:
        click.echo(str(report))
        if len(report.libraries) > 1 or probe:
            for library in report.libraries:
                state = "usable" if library.usable else f"unusable: {library.reason}"
                chosen = " (chosen)" if library == report.library else ""
                click.echo(f"  {library.path.name}: {state}{chosen}")
