-- Secrets that nobody believes any more are not kept.
UPDATE chain_keys SET removed = true, secret = '' WHERE NOT removed AND until_us <= %(now_us)s
RETURNING kid
