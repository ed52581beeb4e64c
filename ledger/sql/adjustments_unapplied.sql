SELECT budget_id, window_name, amount, producer, seq FROM adjustments WHERE adjustment_id > %(adjustment_id)s
