INSERT INTO wallet_transactions (transaction_id, wallet_id, kind, amount_nanos, against, reference, who, why)
VALUES (%(transaction_id)s, %(wallet_id)s, %(kind)s, %(amount_nanos)s, %(against)s, %(reference)s, %(who)s, %(why)s)
RETURNING transaction_id, kind, amount_nanos, against, reference, at, who, why
