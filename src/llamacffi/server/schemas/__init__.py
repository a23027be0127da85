"""What requests look like: pydantic models of OpenAI's fields and llama.cpp's."""
