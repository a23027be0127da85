"""`llamacffi pull`: fetch a model into the cache and say where it is."""

from __future__ import annotations

import click

__all__ = ["pull"]


@click.command()
@click.argument("reference", required=False)
@click.option(
    "--sha256", metavar="HEX", help="Refuse the file that REFERENCE names unless it has this hash."
)
@click.option("--list", "list_", is_flag=True, help="Show the cached models and the aliases.")
def pull(reference: str | None, sha256: str | None, list_: bool) -> None:
    """Fetch a model and print its path.

    REFERENCE is an alias, hf:owner/repo/file.gguf, hf:owner/repo@revision/file.gguf, an
    https:// URL, or a path, which is printed as it is.
    """
    from llamacffi import hub

    if list_ == (reference is not None):
        raise click.UsageError("give either a REFERENCE or --list")
    if reference is None:
        for line in _listing():
            click.echo(line)
    else:
        click.echo(hub.resolve(reference, progress=True, sha256=sha256))


def _listing() -> list[str]:
    from llamacffi import hub
    from llamacffi.hub.cache import folder

    lines = [f"aliases ({len(hub.ALIASES)}):"]
    for name, alias in sorted(hub.ALIASES.items()):
        lines.append(f"  {name}  {alias.summary}, {alias.size / 1e6:.1f} MB, {alias.license}")
    models = hub.cached()
    lines.append(f"cached in {folder()} ({len(models)}):")
    for model in models:
        note = "" if model.verified else ", unverified"
        lines.append(f"  {model.reference}  {model.size / 1e6:.1f} MB{note}")
        lines.append(f"    {model.path}")
    return lines
