INSERT INTO wallets (wallet_id, name, selector, alert_below_nanos)
VALUES (%(wallet_id)s, %(name)s, %(selector)s, %(alert_below_nanos)s)
