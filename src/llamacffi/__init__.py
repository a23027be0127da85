"""Run GGUF language models inside Python: llama.cpp behind CFFI, the backend chosen at run time."""
