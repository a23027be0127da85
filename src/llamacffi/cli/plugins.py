"""`llamacffi plugins`."""

from __future__ import annotations

import click

__all__ = ["plugins"]


@click.command()
def plugins() -> None:
    """List the installed plugins, and every backend, sampler and template by name."""
    import llamacffi.plugins
    from llamacffi.sampling import samplers
    from llamacffi.templates import templates

    names = {
        "backends": [report.name for report in llamacffi.backends()],
        "samplers": list(samplers()),
        "templates": list(templates()),
    }
    reports = llamacffi.plugins.installed()
    for report in reports:
        state = f"failed: {report.error}" if report.error else ", ".join(report.hooks) or "no hooks"
        click.echo(f"{report.name} ({report.distribution}): {state}")
    if not reports:
        click.echo("No third-party plugins are installed.")
    for kind, found in names.items():
        click.echo(f"{kind}: {', '.join(found)}")
