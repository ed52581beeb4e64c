-- Who is behind a key: a program alone, without a person; and whether its calls may say for which customer they are.

ALTER TABLE keys
    ADD COLUMN service_account boolean NOT NULL DEFAULT false,
    ADD COLUMN customer_header boolean NOT NULL DEFAULT false;
