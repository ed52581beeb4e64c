-- The calling key and those with these columns and labels: the active ones that nobody has changed since a moment.
SELECT k.key_id
  FROM keys AS k
 WHERE k.status = 'active'
   AND (k.key_id = %(key_id)s OR (to_jsonb(k) - 'labels') @> %(columns)s AND k.labels @> %(labels)s)
   AND NOT EXISTS (SELECT FROM key_changes AS c WHERE c.key_id = k.key_id AND c.at >= %(since)s)
 ORDER BY k.key_id
   FOR UPDATE OF k
