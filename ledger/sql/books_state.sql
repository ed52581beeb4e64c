SELECT (SELECT value FROM settings WHERE name = 'epoch') AS epoch,
       greatest((SELECT max(version) FROM keys), (SELECT max(version) FROM budgets), (SELECT max(version) FROM runs),
                (SELECT max(version) FROM chain_keys), (SELECT max(version) FROM published_settings),
                (SELECT max(version) FROM agents), (SELECT max(version) FROM tool_prices),
                (SELECT max(version) FROM quarantined_keys), 0) AS version,
       EXISTS (SELECT FROM budgets WHERE counted_at IS NULL AND NOT removed) AS has_new_budgets,
       coalesce((SELECT max(adjustment_id) FROM adjustments), 0) AS last_adjustment
