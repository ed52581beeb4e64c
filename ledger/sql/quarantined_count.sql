SELECT count(*) AS keys FROM quarantined_keys WHERE status <> 'revoked' AND replaced_by IS NULL
