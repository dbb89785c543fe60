"""The version of the package: pyproject.toml has it from here, and ranks must have the same."""

VERSION = "0.1.0"
