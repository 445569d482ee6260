"""The rivals' scripts run in environments of their own: importing them here cannot work."""

collect_ignore_glob = ["rivals/*"]
