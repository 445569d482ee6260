"""What to commit and what to rent: the steps of `reserve` and `bound`.

`wishes` are the flags; `terms` which commitments are weighed and where their instances run; `asking` makes the
question of spec, prices and demand; `fleets` makes plans of the answer; `proving` replays them; `document` is
`reserve.json`; `flow` is the order of the steps.
"""
