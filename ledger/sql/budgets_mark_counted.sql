UPDATE budgets SET counted_at = now() WHERE budget_id = ANY(%(budget_ids)s)
