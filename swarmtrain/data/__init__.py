"""Tokens: where they come from, how they are kept on disk, and how a microbatch follows from its key."""
