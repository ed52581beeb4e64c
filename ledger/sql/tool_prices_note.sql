INSERT INTO tool_price_changes (server, tool, who, why, price_nanos)
VALUES (%(server)s, %(tool)s, %(who)s, %(why)s, %(price_nanos)s)
