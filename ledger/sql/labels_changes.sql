SELECT at, label, who, what, why, detail FROM label_rule_changes
 WHERE %(label)s::text IS NULL OR label = %(label)s
 ORDER BY change_id DESC LIMIT %(limit)s
