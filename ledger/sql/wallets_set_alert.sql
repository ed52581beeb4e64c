UPDATE wallets SET alert_below_nanos = %(alert_below_nanos)s WHERE wallet_id = %(wallet_id)s
