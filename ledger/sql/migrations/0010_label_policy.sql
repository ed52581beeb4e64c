-- Which labels a key must have, and which values they may have. The triggers below are the one place that checks it, so
-- that no path to `keys` can evade it; whoever wants to know beforehand asks `label_fault`.

-- `closed`: only values that are allowed, else all but those that are not. The four labels of every key are mandatory
-- without a rule.
CREATE TABLE label_rules (
    label    text PRIMARY KEY CHECK (label ~ '^[a-z][a-z0-9_]{0,62}$'),
    required boolean NOT NULL DEFAULT false,
    closed   boolean NOT NULL DEFAULT false
);

CREATE TABLE label_values (
    label   text NOT NULL REFERENCES label_rules,
    value   text NOT NULL CHECK (btrim(value) <> ''),
    allowed boolean NOT NULL,
    PRIMARY KEY (label, value)
);

CREATE TABLE label_rule_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    label     text NOT NULL REFERENCES label_rules,
    at        timestamptz NOT NULL DEFAULT now(),
    who       text NOT NULL,
    what      text NOT NULL,
    why       text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);

-- Whoever writes keys holds this lock before its labels are checked: a rule is in force for all that come after it.
CREATE FUNCTION label_rules_wait_for_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7460001);
    RETURN NULL;
END $$;
CREATE TRIGGER label_rules_wait_for_keys BEFORE INSERT OR UPDATE OR DELETE ON label_rules
    FOR EACH STATEMENT EXECUTE FUNCTION label_rules_wait_for_keys();
CREATE TRIGGER label_values_wait_for_keys BEFORE INSERT OR UPDATE OR DELETE ON label_values
    FOR EACH STATEMENT EXECUTE FUNCTION label_rules_wait_for_keys();

-- The pairs of neighbouring letters; what two words have in common of these says how alike they are.
CREATE FUNCTION letter_pairs(word text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(DISTINCT substr(' ' || lower(word) || ' ', place, 2))
      FROM generate_series(1, length(word) + 1) AS place
$$;

-- The allowed values of a label, those most like `wanted` first, as a sentence names them; NULL where there are none.
CREATE FUNCTION allowed_values(of_label text, wanted text) RETURNS text LANGUAGE sql STABLE AS $$
    WITH ranked AS (
        SELECT value, row_number() OVER (ORDER BY likeness DESC, value) AS place
          FROM (SELECT v.value, (
                    SELECT count(*) / (cardinality(letter_pairs(v.value)) + cardinality(letter_pairs(wanted)))::real
                      FROM unnest(letter_pairs(v.value)) AS pair WHERE pair = ANY(letter_pairs(wanted))
                ) AS likeness
                  FROM label_values AS v WHERE v.label = of_label AND v.allowed) AS compared
    )
    SELECT string_agg(value, ', ' ORDER BY place) FILTER (WHERE place <= 10)
           || CASE WHEN count(*) > 10 THEN ' and ' || count(*) - 10 || ' more' ELSE '' END
      FROM ranked
$$;

-- What is wrong with these labels (all of a key's, by name), as one sentence; NULL: nothing. `complete`: none may be
-- missing that is required.
CREATE FUNCTION label_fault(given jsonb, complete boolean) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    rule record;
    choice text;
BEGIN
    FOR rule IN
        SELECT r.label, r.closed, given ->> r.label AS wanted
          FROM label_rules AS r LEFT JOIN label_values AS v ON v.label = r.label AND v.value = given ->> r.label
         WHERE given ->> r.label <> '' AND NOT coalesce(v.allowed, NOT r.closed)
         ORDER BY r.label LIMIT 1
    LOOP
        choice := allowed_values(rule.label, rule.wanted);
        RETURN format('The label %s cannot be ''%s''; %s.', rule.label, rule.wanted, CASE
            WHEN rule.closed THEN coalesce('allowed values: ' || choice, 'none of its values is allowed')
            ELSE 'that value is forbidden' || coalesce(', others such as ' || choice || ' are not', '') END);
    END LOOP;
    FOR rule IN
        SELECT label, closed FROM label_rules
         WHERE required AND complete AND coalesce(given ->> label, '') = '' ORDER BY label LIMIT 1
    LOOP
        choice := allowed_values(rule.label, '');
        RETURN format('The label %s is required; give it %s.', rule.label, CASE
            WHEN choice IS NULL THEN 'a value'
            WHEN rule.closed THEN 'one of these values: ' || choice
            ELSE 'a value such as ' || choice END);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION labels_must_fit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    fault text := label_fault(NEW.labels || jsonb_build_object(
        'owner', NEW.owner, 'team', NEW.team, 'agent', NEW.agent, 'workload', NEW.workload,
        'customer', NEW.customer), TG_TABLE_NAME = 'keys');
BEGIN
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION '%', fault USING ERRCODE = 'check_violation', CONSTRAINT = 'label_policy';
    END IF;
    RETURN NEW;
END $$;

-- By their names these come after the triggers that take the lock. A change that leaves the labels alone is not checked,
-- so that a key which does not fit a new rule can still be suspended, limited and revoked.
CREATE TRIGGER keys_labels_fit BEFORE INSERT ON keys
    FOR EACH ROW EXECUTE FUNCTION labels_must_fit();
CREATE TRIGGER keys_new_labels_fit BEFORE UPDATE ON keys FOR EACH ROW
    WHEN ((OLD.owner, OLD.team, OLD.agent, OLD.workload, OLD.customer, OLD.labels)
          IS DISTINCT FROM (NEW.owner, NEW.team, NEW.agent, NEW.workload, NEW.customer, NEW.labels))
    EXECUTE FUNCTION labels_must_fit();
CREATE TRIGGER quarantined_keys_labels_fit BEFORE INSERT ON quarantined_keys
    FOR EACH ROW EXECUTE FUNCTION labels_must_fit();
CREATE TRIGGER quarantined_keys_new_labels_fit BEFORE UPDATE ON quarantined_keys FOR EACH ROW
    WHEN ((OLD.owner, OLD.team, OLD.agent, OLD.workload, OLD.customer, OLD.labels)
          IS DISTINCT FROM (NEW.owner, NEW.team, NEW.agent, NEW.workload, NEW.customer, NEW.labels))
    EXECUTE FUNCTION labels_must_fit();
