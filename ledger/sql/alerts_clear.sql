UPDATE alerts SET cleared_at = %(now)s WHERE alert_id = ANY (%(alert_ids)s::bigint[])
