-- Nobody else changes a key or a budget until this transaction ends.
SELECT pg_advisory_xact_lock(7460001)
