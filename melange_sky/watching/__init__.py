"""A fleet that follows its traffic: what was seen, what is to come, what to do, within which limits.

`seen` is what one look told, `forecast` what the next minutes may bring, `fleets` which fleets serve how much,
`decide` whether another one pays or is needed, `guard` what is allowed, `provisioning` how long a start takes,
`journal` the log that explains every step. No network, no SkyPilot, no planner; the clock is an argument.
"""
