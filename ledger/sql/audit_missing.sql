-- The first gaps in one producer's seqs.
WITH present AS (
    SELECT 0::bigint AS seq
    UNION SELECT seq FROM events WHERE producer = %(producer)s
    UNION SELECT seq FROM dead_letters WHERE producer = %(producer)s
), next AS (
    SELECT seq, lead(seq) OVER (ORDER BY seq) AS following FROM present
)
SELECT seq + 1 AS first, following - 1 AS last FROM next WHERE following > seq + 1 ORDER BY seq LIMIT %(most)s
