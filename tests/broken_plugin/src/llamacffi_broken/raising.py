"""Can be imported, but its hooks do not work."""

from llamacffi import hookimpl


@hookimpl
def register_backends(register):
    raise RuntimeError("the driver is on fire")


@hookimpl
def register_samplers(register):
    register("not a sampler")
