SELECT ensure_partitions(%(months_ahead)s)
