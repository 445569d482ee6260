"""The integer program as plain columns and rows, and the solvers that run it."""
