-- Those that sign or are believed, the newest first.
SELECT kid, secret, from_us, until_us, created_at FROM chain_keys WHERE NOT removed ORDER BY from_us DESC, kid
