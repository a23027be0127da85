"""Model references and downloads: from what a user writes to a GGUF file on this machine.

A reference is a path, an alias (`smollm2`), `hf:owner/repo/file.gguf`,
`hf:owner/repo@revision/file.gguf`, or an `https://` URL with an optional `#sha256=<hex>`. What is
fetched is checked (magic, length, hash) and kept in a cache, where the next call finds it without
a network.
"""

from __future__ import annotations

from llamacffi.hub.aliases import ALIASES, Alias
from llamacffi.hub.cache import CachedModel, cached
from llamacffi.hub.progress import Progress
from llamacffi.hub.resolver import resolve

__all__ = ["ALIASES", "Alias", "CachedModel", "Progress", "cached", "resolve"]
