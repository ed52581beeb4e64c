SELECT at, who, what, why, detail FROM agent_changes WHERE name = %(name)s ORDER BY change_id DESC LIMIT %(limit)s
