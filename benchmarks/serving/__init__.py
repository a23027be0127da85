"""Measure servers that speak OpenAI's protocol: ours, llama-server, llama-cpp-python's."""
