INSERT INTO migrations (name, sha256) VALUES (%s, %s)
