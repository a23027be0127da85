"""Questions about a database answered by SQL: a prompt template for llamacffi."""
