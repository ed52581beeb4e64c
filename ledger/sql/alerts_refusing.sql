-- Which of these budgets have refused calls in their window because they were spent, at their present amount or a
-- later one: an event says under which directory version it was refused.
SELECT w.place
  FROM unnest(%(names)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(versions)s::bigint[])
       WITH ORDINALITY AS w (name, starts_at, ends_at, version, place)
 WHERE EXISTS (
    SELECT FROM events AS e
     WHERE e.refused_by = w.name AND e.refused_by <> '' AND e.refusal = ANY (%(refusals)s::text[])
       AND e.occurred_at >= w.starts_at AND e.occurred_at < w.ends_at AND e.policy_version >= w.version)
