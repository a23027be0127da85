"""Structured output for llamacffi through llguidance's token masks."""
