"""What is asked: the problem in its own words, and in canonical form."""
