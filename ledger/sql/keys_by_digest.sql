-- Whose texts have one of these SHA-256, in quarantine or not.
SELECT key_id, sha256, false AS quarantined FROM keys WHERE sha256 = ANY(%(digests)s)
UNION ALL
SELECT key_id, sha256, true FROM quarantined_keys WHERE sha256 = ANY(%(digests)s)
