COPY adjustments (budget_id, window_name, expires_at_ms, amount, producer, seq) FROM STDIN
