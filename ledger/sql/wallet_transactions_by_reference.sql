SELECT transaction_id, kind, amount_nanos, against, reference, at, who, why
  FROM wallet_transactions
 WHERE wallet_id = %(wallet_id)s AND reference = %(reference)s AND reference <> ''
