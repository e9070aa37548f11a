"""Bricks of the networks: causal, streamable, free of configuration."""
