"""How results are shown: documents for scripts, tables and figures for people. One module per result.

`plan_table` shows a plan, `next_steps` what to do with it. `page`, `columns` and `terminal` are what the
others share. What the planner returns is seen through protocols here (`…View`), as neither knows the other.
"""
