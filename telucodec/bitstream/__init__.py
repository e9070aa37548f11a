"""Codes to bytes and back: packing and the ``.codes`` container. numpy and the standard library only."""
