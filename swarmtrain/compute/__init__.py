"""Stage work on a device: forward and backward, exact sums, the inner optimizer, the compute lane."""
