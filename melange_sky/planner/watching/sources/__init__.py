"""Where a fleet's traffic is seen: each source is looked at again and again, and gives what came since.

`counting` makes one look of two readings of counters; `gateway`, `prometheus`, `replicas` and `observed_file`
take the readings; `together` makes one look of several sources. None of them knows SkyPilot.
"""
