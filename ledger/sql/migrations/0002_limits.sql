-- Limits on calls: what refused them, who paid, and a key's rates beside its lifetime limit.

ALTER TABLE events
    ADD COLUMN byok boolean NOT NULL DEFAULT false,
    ADD COLUMN refused_by text NOT NULL DEFAULT '',
    ADD COLUMN shadow_refusal text NOT NULL DEFAULT '';

-- `byok` is a dimension beside `dimensions`, not within its md5: rows that are there keep theirs.
ALTER TABLE rollups
    ADD COLUMN byok boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT rollups_pkey,
    ADD PRIMARY KEY (hour, dimensions, byok);

-- Every limit on a key is mirrored into `budgets`; it is found again by its name.
CREATE FUNCTION mirror_key_limit(
    limited text, limit_name text, prefix text, unit text, per text, limit_source text, amount bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    mirror_name text := limit_name || ' of key ' || limited;
    mirror budgets.budget_id%TYPE;
BEGIN
    SELECT b.budget_id INTO mirror FROM budgets AS b
     WHERE b.name = mirror_name AND b.document ->> 'limit_source' = limit_source AND NOT b.removed;
    IF amount IS NOT NULL AND mirror IS NULL THEN
        mirror := prefix || '-' || limited;
        IF EXISTS (SELECT FROM budgets AS b WHERE b.budget_id = mirror) THEN
            mirror := mirror || '-' || next_directory_version();  -- the limit was lifted once: another counter
        END IF;
        INSERT INTO budgets (budget_id, name, document)
        VALUES (mirror, mirror_name, jsonb_build_object(
            'where', jsonb_build_array(jsonb_build_array('key', limited)),
            'unit', unit, 'amount', amount, 'per', per, 'time_zone', 'UTC',
            'on_exceed', 'block', 'alerts', '[]'::jsonb, 'limit_source', limit_source));
    ELSIF amount IS NOT NULL THEN
        UPDATE budgets AS b SET document = jsonb_set(b.document, '{amount}', to_jsonb(amount))
         WHERE b.budget_id = mirror AND b.document -> 'amount' <> to_jsonb(amount);
    ELSIF mirror IS NOT NULL THEN
        UPDATE budgets AS b SET removed = true WHERE b.budget_id = mirror;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION keys_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mirror_key_limit(NEW.key_id, name, prefix, unit, per, limit_source,
                             CASE WHEN NEW.status <> 'revoked' THEN amount END)
       FROM (VALUES ('max_spend', 'key', 'usd', 'total', 'key', NEW.max_spend_nanos),
                    ('rpm', 'rpm', 'calls', 'minute', 'rate', NEW.rpm),
                    ('tpm', 'tpm', 'tokens', 'minute', 'rate', NEW.tpm),
                    ('max_parallel', 'parallel', 'parallel', 'total', 'key', NEW.max_parallel)
            ) AS limits (name, prefix, unit, per, limit_source, amount);
    -- After its budgets, so that nobody learns of the key before the limits on it.
    NEW.version := next_directory_version();
    RETURN NEW;
END $$;

-- Keys that had rates before they were mirrored.
UPDATE keys SET rpm = rpm
 WHERE status <> 'revoked' AND (rpm IS NOT NULL OR tpm IS NOT NULL OR max_parallel IS NOT NULL);
