"""Names of the models that are known without a path; importable without torch."""

SMALL = "small"  # the random-weight model: no download, no meaning, the same attention pattern
GEMMA = "gemma3-270m"
