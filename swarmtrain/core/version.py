"""The version that peers of one run must share; pyproject.toml names the same."""

VERSION = "0.1.0"
