"""Whatever computes tokens. Each engine is imported only when it is chosen: see `registry`."""
