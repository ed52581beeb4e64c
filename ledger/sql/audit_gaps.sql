-- Per producer what is in PostgreSQL, up to a given seq where one is given, and what `producers` says of it.
WITH known AS (
    SELECT producer, seq FROM unnest(%(producers)s::text[], %(seqs)s::bigint[]) AS k (producer, seq)
), present AS (
    SELECT e.producer, count(DISTINCT e.seq) AS present, max(e.seq) AS highest
      FROM events AS e LEFT JOIN known AS k USING (producer)
     WHERE k.seq IS NULL OR e.seq <= k.seq
     GROUP BY e.producer
), letters AS (
    SELECT d.producer, count(*) AS present, max(d.seq) AS highest
      FROM dead_letters AS d LEFT JOIN known AS k USING (producer)
     WHERE d.producer IS NOT NULL AND (k.seq IS NULL OR d.seq <= k.seq)
       AND NOT EXISTS (SELECT FROM events AS e WHERE e.producer = d.producer AND e.seq = d.seq)
     GROUP BY d.producer
)
SELECT producer, coalesce(e.present, 0) + coalesce(l.present, 0) AS present,
       greatest(e.highest, l.highest, 0) AS highest, coalesce(p.contiguous, 0) AS contiguous
  FROM present AS e FULL JOIN letters AS l USING (producer) FULL JOIN producers AS p USING (producer)
 ORDER BY producer
