"""Checks before the first step: data, size, gradients, two short trials. Seconds that can save a night."""
