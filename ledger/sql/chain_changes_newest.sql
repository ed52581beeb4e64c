SELECT at, who, what, subject, why, detail FROM chain_changes
 WHERE subject = ANY(%(subjects)s)
 ORDER BY change_id DESC
 LIMIT %(limit)s
