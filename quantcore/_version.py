"""The version, where the build finds it without the compiled parts."""

__version__ = "0.1.0"
