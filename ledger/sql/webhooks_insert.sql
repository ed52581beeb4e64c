INSERT INTO webhooks (endpoint_id, url, secret, form, kinds, created_by)
VALUES (%(endpoint_id)s, %(url)s, %(secret)s, %(form)s, %(kinds)s, %(created_by)s)
RETURNING endpoint_id, url, form, kinds, created_by, created_at
