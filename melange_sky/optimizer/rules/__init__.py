"""The rules that a fleet keeps, each with its rows, its words and its check."""
