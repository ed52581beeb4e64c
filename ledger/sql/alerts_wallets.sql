-- Prepaid credit whose owner wants to be told when little is left.
SELECT 'wallet-' || wallet_id AS budget_id, alert_below_nanos FROM wallets WHERE alert_below_nanos IS NOT NULL
