"""What the commands do, as functions: each module is one job, or one step that several jobs share.

A plan is made by `plan_spec` (the order of the steps) from `request` (what a caller asks beyond the
spec), `prepare` (offers, options, capacities: the optimizer's problem; `options`, `constraints`),
`sensitivity` (what the error of estimates does to the cost) and `notes` (what a reader must know), or
by `melange_config` from Mélange's own JSON. Jobs with a plan: `replay_loop/` (replay it, and plan
again until it holds), `reprice`, `observed`, `apply`, `measuring_jobs`. Jobs with a spec: `sweep`,
`comparison`.
"""
