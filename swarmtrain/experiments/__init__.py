"""Runs that are scripted: the reference loop, the virtual world, processes on this machine."""
