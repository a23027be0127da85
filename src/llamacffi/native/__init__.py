"""The border to llama.cpp: the only package that touches cffi."""
