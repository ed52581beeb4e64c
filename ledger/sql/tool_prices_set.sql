INSERT INTO tool_prices (server, tool, price_nanos)
VALUES (%(server)s, %(tool)s, %(price_nanos)s)
ON CONFLICT (server, tool) DO UPDATE SET price_nanos = excluded.price_nanos
RETURNING server, tool, price_nanos
