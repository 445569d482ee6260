"""The steps of `watch`: look, foretell, decide, write down, act; and the same over a trace that was.

`plan_fleets` are the fleets that a plan's options and rules allow, `ticking` is one look, `replay` a backtest against
`rivals`, `explaining` what the journal says, `sources` where looks come from, `acting` how a change is made.
"""
