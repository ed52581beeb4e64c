SELECT letter_id, stream_id, reason, producer, seq, at FROM dead_letters ORDER BY letter_id LIMIT %(most)s
