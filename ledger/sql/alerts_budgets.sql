-- Budgets that changed after a directory version, also those that ended.
SELECT budget_id, name, document, removed, counts_from, version
  FROM budgets
 WHERE version > %(version)s AND document ->> 'limit_source' IS DISTINCT FROM 'rate'
 ORDER BY version
