SELECT pg_try_advisory_xact_lock(7460004) AS mine
