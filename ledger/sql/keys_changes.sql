SELECT at, who, what, why, detail FROM key_changes WHERE key_id = %(key_id)s ORDER BY change_id DESC LIMIT %(limit)s
