"""The hourly fleets of a reserve folder on SkyServe: what `schedule` does.

`folder` reads, `timetable` says what runs when (pure), `carrying_out` brings it about, `cron` writes what
calls that every few minutes.
"""
