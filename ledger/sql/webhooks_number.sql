SELECT count(*) AS number FROM webhooks WHERE ended_at IS NULL
