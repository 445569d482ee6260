"""How results are shown: documents for scripts, tables and figures for people. One module per result.

`plan_table` shows a plan; `terminal` is what all tables share.
"""
