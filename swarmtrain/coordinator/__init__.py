"""Bootstraps discovery, admits peers, watches the run. Training goes on without it; it never imports torch."""
