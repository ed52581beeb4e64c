INSERT INTO dead_letters (stream_id, payload, reason, producer, seq)
SELECT * FROM unnest(%(stream_ids)s::text[], %(payloads)s::bytea[], %(reasons)s::text[], %(producers)s::text[],
                     %(seqs)s::bigint[])
ON CONFLICT DO NOTHING
