"""Measurements: this library, llama-cpp-python and llama.cpp's own tool, side by side."""
