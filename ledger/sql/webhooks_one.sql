SELECT endpoint_id, url, secret, form FROM webhooks WHERE endpoint_id = %(endpoint_id)s AND ended_at IS NULL
