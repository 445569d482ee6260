"""Plan, replay, tighten what failed, plan again: until the verdict holds or it is clear why not.

`loop` is the algorithm: replay, derate, choose again, record. `replan` chooses a fleet again among the
first plan's candidates. `ease` looks for cheaper fleets near one that holds. `replay` sends traffic
through one model's fleet and judges it, which is also all that `simulate` does. loop uses the others,
ease uses replan; replay knows none of them.
"""
