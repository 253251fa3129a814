"""The network in plain torch; knows nothing of peers."""
