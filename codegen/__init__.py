"""Generates the committed cffi declarations from the pinned llama.cpp headers.

``python -m codegen generate | check | diff | upgrade``, run at the repository root.
"""
