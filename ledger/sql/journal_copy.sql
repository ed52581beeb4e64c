COPY journal (transaction_id, occurred_at, account, amount_nanos) FROM STDIN
