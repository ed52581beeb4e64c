-- How many seqs of each producer are in the books, above one and up to another.
SELECT k.producer, count(found.seq) AS present
  FROM unnest(%(producers)s::text[], %(above)s::bigint[], %(upto)s::bigint[]) AS k (producer, above, upto)
  LEFT JOIN LATERAL (
    SELECT seq FROM events AS e WHERE e.producer = k.producer AND e.seq > k.above AND e.seq <= k.upto
    UNION
    SELECT seq FROM dead_letters AS d WHERE d.producer = k.producer AND d.seq > k.above AND d.seq <= k.upto
  ) AS found ON true
 GROUP BY k.producer
