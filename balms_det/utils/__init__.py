"""Files, caches, registries, randomness, patching, trust and the command line."""
