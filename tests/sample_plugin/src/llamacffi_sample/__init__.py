"""A sample third-party plugin of llamacffi."""
