"""The hourly fleets of a reserve folder on SkyServe: what `schedule` does.

`folder` reads, `planner.timetable` says what runs when, `carrying_out` brings it about, `cron` writes what
calls that every few minutes.
"""
