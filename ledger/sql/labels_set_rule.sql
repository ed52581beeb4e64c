INSERT INTO label_rules (label, required, closed) VALUES (%(label)s, %(required)s, %(closed)s)
ON CONFLICT (label) DO UPDATE SET required = excluded.required, closed = excluded.closed
