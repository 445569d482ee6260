"""The order of the steps: spec → offers → options → capacities → optimum → plan."""
