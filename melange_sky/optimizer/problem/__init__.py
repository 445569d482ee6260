"""What is asked: the problem in its own words, in canonical form, and without needless options."""
