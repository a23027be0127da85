"""Several processes behind one address, each with an engine of its own.

The process that was started listens, and keeps the workers alive: `supervisor.py`. What it accepts
it passes on: `proxy.py`. A worker is a server of its own on a Unix-domain socket: `worker.py`.
"""
