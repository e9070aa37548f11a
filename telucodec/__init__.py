"""telucodec: a neural speech codec, wav to a few kilobits a second and back.

Importing the package is cheap; torch is imported by the rooms that need it, when they are opened.
"""

__version__ = "0.15.0"
