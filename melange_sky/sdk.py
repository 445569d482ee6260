"""`sky.melange`: the same jobs from Python."""
