INSERT INTO chain_keys (kid, secret, from_us) VALUES (%(kid)s, %(secret)s, %(from_us)s)
