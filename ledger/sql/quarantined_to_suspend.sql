-- As keys_to_suspend, of the keys in quarantine.
SELECT k.key_id
  FROM quarantined_keys AS k
 WHERE k.status = 'active'
   AND (k.key_id = %(key_id)s OR (to_jsonb(k) - 'labels') @> %(columns)s AND k.labels @> %(labels)s)
   AND NOT EXISTS (SELECT FROM key_changes AS c WHERE c.key_id = k.key_id AND c.at >= %(since)s)
 ORDER BY k.key_id
   FOR UPDATE OF k
