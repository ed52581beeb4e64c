-- Returns those values that were not so before.
INSERT INTO label_values AS v (label, value, allowed)
SELECT %(label)s, value, %(allowed)s FROM unnest(%(values)s::text[]) AS value
ON CONFLICT (label, value) DO UPDATE SET allowed = excluded.allowed WHERE v.allowed <> excluded.allowed
RETURNING value
