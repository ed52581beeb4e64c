INSERT INTO published_settings (name, document) VALUES (%(name)s, %(document)s)
ON CONFLICT (name) DO UPDATE SET document = excluded.document
