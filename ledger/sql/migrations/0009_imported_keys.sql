-- Keys that callers had before: in quarantine while labels are missing, at most until their grace date.
--
-- `keys` stays what it was: no row without all four labels. A key whose labels are complete moves there under the same
-- key_id, in one transaction; the sidecars see one document `key:<key_id>`, whichever table it comes from.

CREATE TABLE quarantined_keys (
    key_id      text PRIMARY KEY CHECK (btrim(key_id) <> ''),
    sha256      text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    owner       text NOT NULL DEFAULT '',         -- these four as far as they are known
    team        text NOT NULL DEFAULT '',
    agent       text NOT NULL DEFAULT '',
    workload    text NOT NULL DEFAULT '',
    customer    text NOT NULL DEFAULT '',
    labels      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    name        text NOT NULL DEFAULT '',         -- what it was called where it comes from
    note        text NOT NULL DEFAULT '',
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
    grace_until timestamptz NOT NULL,             -- its calls pass until then
    replaced_by text REFERENCES keys,             -- the key that was issued in its place
    created_at  timestamptz NOT NULL DEFAULT now(),
    version     bigint NOT NULL UNIQUE
);

-- A key is in one of the two tables. The lock that versions are taken under is held by whoever writes either.
CREATE FUNCTION quarantined_keys_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := next_directory_version();
    IF EXISTS (SELECT FROM keys WHERE key_id = NEW.key_id) OR EXISTS (SELECT FROM keys WHERE sha256 = NEW.sha256) THEN
        RAISE EXCEPTION 'The key % has its labels already and cannot be quarantined.', NEW.key_id
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER quarantined_keys_before_write BEFORE INSERT OR UPDATE ON quarantined_keys
    FOR EACH ROW EXECUTE FUNCTION quarantined_keys_before_write();

CREATE FUNCTION keys_are_not_quarantined() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM quarantined_keys WHERE key_id = NEW.key_id)
       OR EXISTS (SELECT FROM quarantined_keys WHERE sha256 = NEW.sha256) THEN
        RAISE EXCEPTION 'The key % is in quarantine; take it out first.', NEW.key_id USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
-- By its name it comes after `keys_before_write`, which takes the lock.
CREATE TRIGGER keys_not_quarantined BEFORE INSERT ON keys
    FOR EACH ROW EXECUTE FUNCTION keys_are_not_quarantined();

-- The history of a key is one, wherever it is, and goes with it: what a foreign key to `keys` held until now.
ALTER TABLE key_changes DROP CONSTRAINT key_changes_key_id_fkey;

CREATE FUNCTION key_changes_have_a_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM keys WHERE key_id = NEW.key_id)
       AND NOT EXISTS (SELECT FROM quarantined_keys WHERE key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'There is no key % whose change could be on record.', NEW.key_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_changes_have_a_key BEFORE INSERT OR UPDATE ON key_changes
    FOR EACH ROW EXECUTE FUNCTION key_changes_have_a_key();

CREATE FUNCTION keys_with_a_history_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM key_changes WHERE key_id = OLD.key_id)
       AND NOT EXISTS (SELECT FROM keys WHERE key_id = OLD.key_id)
       AND NOT EXISTS (SELECT FROM quarantined_keys WHERE key_id = OLD.key_id) THEN
        RAISE EXCEPTION 'The key % has a history and cannot go; revoke it.', OLD.key_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER keys_stay AFTER DELETE ON keys DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION keys_with_a_history_stay();
CREATE CONSTRAINT TRIGGER quarantined_keys_stay AFTER DELETE ON quarantined_keys DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION keys_with_a_history_stay();

-- Untagged spend is asked for often and is in few rows.
CREATE INDEX rollups_untagged ON rollups (hour)
    WHERE key_id <> '' AND (owner = '' OR team = '' OR agent = '' OR workload = '');
