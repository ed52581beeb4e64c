UPDATE budgets SET removed = true WHERE budget_id = %(budget_id)s
