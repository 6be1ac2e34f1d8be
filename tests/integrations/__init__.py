"""Real frameworks that use the loader; run by ``pytest -m integration``, with the extra of that name."""
