"""What is to be solved: the problem in its own words, and in canonical form."""
