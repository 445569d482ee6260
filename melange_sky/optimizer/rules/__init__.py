"""The rules that a fleet keeps: one class each with its rows, its words, its check and what it breaks."""
