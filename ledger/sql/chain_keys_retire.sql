-- Every older key is believed until then and no longer.
UPDATE chain_keys SET until_us = greatest(from_us, %(until_us)s)
 WHERE kid <> %(kid)s AND NOT removed AND (until_us IS NULL OR until_us > %(until_us)s)
