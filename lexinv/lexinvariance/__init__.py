"""Language models that know no token by name: the exact theory, its oracles and its counters."""
