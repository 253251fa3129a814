"""swarmtrain: train one language model on machines that differ, sit far apart, and come and go."""

__version__ = "0.1.0"
