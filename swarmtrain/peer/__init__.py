"""The program a volunteer runs. Read worker.py first: it tells how a microbatch flows."""
