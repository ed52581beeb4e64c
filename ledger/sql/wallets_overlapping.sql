-- A wallet that could pay for the same call: no label has another value in both selectors.
SELECT w.name, w.selector
  FROM wallets AS w
 WHERE NOT EXISTS (
     SELECT FROM jsonb_array_elements(w.selector) AS one, jsonb_array_elements(%(selector)s) AS other
      WHERE one -> 0 = other -> 0 AND one -> 1 <> other -> 1)
 ORDER BY w.name
 LIMIT 1
