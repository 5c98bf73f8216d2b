"""Whatever computes tokens. An engine's library is imported in its own process alone."""
