-- Note that these seqs are in PostgreSQL now; returns the new `contiguous` of their producers. The events are looked
-- at only for a producer that has a gap which these seqs may close.
WITH arrived AS (
    SELECT DISTINCT producer, seq FROM unnest(%(producers)s::text[], %(seqs)s::bigint[]) AS a (producer, seq)
), news AS (
    SELECT a.producer, max(a.seq) AS highest, coalesce(p.contiguous, 0) AS contiguous,
           coalesce(p.highest > p.contiguous, false) AND bool_or(a.seq = p.contiguous + 1) AS closes_gap
      FROM arrived AS a LEFT JOIN producers AS p USING (producer)
     GROUP BY a.producer, p.contiguous, p.highest
), present AS (
    SELECT n.producer, n.contiguous, a.seq
      FROM news AS n JOIN arrived AS a ON a.producer = n.producer AND a.seq > n.contiguous
    UNION
    SELECT n.producer, n.contiguous, e.seq
      FROM news AS n JOIN events AS e ON e.producer = n.producer AND e.seq > n.contiguous WHERE n.closes_gap
    UNION
    SELECT n.producer, n.contiguous, d.seq
      FROM news AS n JOIN dead_letters AS d ON d.producer = n.producer AND d.seq > n.contiguous WHERE n.closes_gap
), numbered AS (
    SELECT producer, contiguous, seq, row_number() OVER (PARTITION BY producer ORDER BY seq) AS place FROM present
), advanced AS (
    SELECT producer, max(seq) AS contiguous FROM numbered WHERE seq = contiguous + place GROUP BY producer
)
INSERT INTO producers AS p (producer, contiguous, highest)
SELECT n.producer, coalesce(a.contiguous, n.contiguous), greatest(n.highest, n.contiguous, a.contiguous)
  FROM news AS n LEFT JOIN advanced AS a USING (producer)
ON CONFLICT (producer) DO UPDATE SET
    contiguous = excluded.contiguous, highest = greatest(p.highest, excluded.highest), updated_at = now()
RETURNING producer, contiguous
