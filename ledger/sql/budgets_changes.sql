SELECT at, who, what, why, detail
  FROM budget_changes
 WHERE budget_id = %(budget_id)s
 ORDER BY change_id DESC
 LIMIT %(limit)s
