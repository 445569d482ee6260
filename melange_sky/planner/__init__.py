"""What the commands do, as functions: the application, without a terminal.

One module per command: `planning` (plan), `verifying` (plan --verify, compare), `simulating`,
`explaining`, `sweep`, `capacity`, `prices` and `reprice` (prices diff --plan), `apply` (apply, status,
down), `measuring` (profile run), `measuring_jobs` (profile launch and the like), `serving` (gateway),
`models`, `workloads` (init, workload). `hooks` is what a caller may hear on the way.

What they share: `plan_spec` is the order of the steps of a plan. The steps are `prepare` (the
optimizer's problem: prices, models, capacities) with `options` and `constraints`, `sensitivity` (what
the error of estimates does to the cost) and `notes` (what a reader must know); `request` says what a
caller asks beyond the spec. `melange_config` plans Mélange's own JSON. `replay_loop/` replays a plan
and plans again until it holds. `plan_files` reads and writes plans. `comparison`, `observed` and
`profiling` (with `job_document`) are jobs of their own.
"""
