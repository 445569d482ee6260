"""From the program to whole instances: bounds, incumbents, ties and loss scenarios."""
