"""Errors a user can fix. Each message says what was found, what was expected and the remedy.

Anything else that escapes is a bug and keeps its traceback.
"""


class TelucodecError(Exception):
    """Base of every error that the person at the keyboard can do something about."""


class ConfigError(TelucodecError):
    """A setting is unknown, has the wrong type or an impossible value."""


class AudioError(TelucodecError):
    """An audio file cannot be read, or holds something the codec cannot use."""


class BitstreamError(TelucodecError):
    """A ``.codes`` stream is not one, is damaged, or is of a version this build does not read."""


class ModelError(TelucodecError):
    """Weights are missing, damaged, or do not belong to the stream or configuration at hand."""


class DataError(TelucodecError):
    """A training folder holds nothing to train on, or a run folder nothing to resume."""
