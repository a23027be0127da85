"""What of upstream's headers llamacffi declares.

llama.h, gguf.h and mtmd.h are declared whole. Of ggml only the parts in use are: what is named
here, and by transitive closure every type that any chosen declaration needs. A struct that is only
ever used behind a pointer stays opaque, unless ``GGML_TYPES`` asks for it.

Left out on purpose: ``ggml_backend_load*`` and ``ggml_backend_unload`` (each of our libraries is
one backend, linked in; upstream's loader of further shared objects would break their isolation),
and everything that builds, schedules or computes graphs (llama.cpp does that).
"""

from __future__ import annotations

import re

OUTPUTS: dict[str, tuple[str, ...]] = {
    "ggml.h": ("ggml.h", "ggml-alloc.h", "ggml-backend.h", "ggml-cpu.h", "ggml-opt.h"),
    "gguf.h": ("gguf.h",),
    "llama.h": ("llama.h",),
    "mtmd.h": ("mtmd.h",),
}
"""Each file of ``native/cdef`` in the order of ``cdef()`` calls, and the headers it takes from."""

WHOLE = frozenset({"gguf.h", "llama.h", "mtmd.h"})
"""Headers of which every declaration is taken."""

NOT_IN_LIBRARIES = frozenset({"mtmd.h"})
"""Headers that no library of ours compiles yet: they have no rows in the layout table."""

GGML_FUNCTIONS = (
    # devices, registries and buffer types: which backend is usable, on what, with how much memory
    r"ggml_backend_dev_\w+",
    r"ggml_backend_reg_\w+",
    r"ggml_backend_buft_name",
    r"ggml_backend_name",
    r"ggml_backend_free",
    # the processor
    r"ggml_cpu_has_\w+",
    r"ggml_cpu_get_\w+",
    r"ggml_threadpool_\w+",
    # types: sizes of KV caches, names in reports
    r"ggml_type_name",
    r"ggml_type_size",
    r"ggml_blck_size",
    r"ggml_row_size",
    r"ggml_is_quantized",
    # the rest of what a report or a log line needs
    r"ggml_time_\w+",
    r"ggml_version",
    r"ggml_commit",
    r"ggml_status_to_string",
    r"ggml_set_abort_callback",
)

GGML_TYPES = (
    r"ggml_status",
    r"ggml_log_level",
    # filled in through a pointer, so the closure alone would leave it opaque
    r"ggml_backend_dev_props",
    r"ggml_threadpool_params",
    # what ggml_backend_reg_get_proc_address() is asked for
    r"ggml_backend_feature",
    r"ggml_backend_get_features_t",
    r"ggml_backend_dev_get_extra_bufts_t",
)

GGML_MACROS = (
    r"GGML_MAX_\w+",
    r"GGML_DEFAULT_\w+",
    r"GGML_ROPE_TYPE_\w+",
    r"GGML_MROPE_SECTIONS",
    r"GGML_FILE_\w+",
    r"GGML_QNT_\w+",
)

_PATTERNS = {
    "function": re.compile("|".join(GGML_FUNCTIONS)),
    "macro": re.compile("|".join(GGML_MACROS)),
    "struct": re.compile("|".join(GGML_TYPES)),
    "enum": re.compile("|".join(GGML_TYPES)),
    "typedef": re.compile("|".join(GGML_TYPES)),
}


def is_chosen(kind: str, name: str, header: str) -> bool:
    """Whether a declaration is taken for its own sake, not only because another needs it."""
    if header in WHOLE:
        return True
    pattern = _PATTERNS.get(kind)
    return pattern is not None and pattern.fullmatch(name) is not None
