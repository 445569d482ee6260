"""How the best fleet is found: what can be left out, the least goal, then the simplest of that cost."""
