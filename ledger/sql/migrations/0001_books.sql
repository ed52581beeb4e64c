-- The books: what is enforced (keys, budgets) and what happened (events, rollups, journal).
--
-- Whoever writes keys or budgets never sets `version`, `counts_from` or `counted_at`: triggers do, so that no path can
-- forget it. A key's max_spend is mirrored into `budgets` by a trigger as well: write `keys` only.

CREATE TABLE settings (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- directory: keys and budgets

CREATE SEQUENCE directory_version_seq;

-- The lock is held until commit, so versions become visible in their order and a publisher that has seen version N has
-- seen every version below it.
CREATE FUNCTION next_directory_version() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7460001);
    RETURN nextval('directory_version_seq');
END $$;

CREATE TABLE keys (
    key_id          text PRIMARY KEY CHECK (btrim(key_id) <> ''),
    sha256          text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    owner           text NOT NULL CHECK (btrim(owner) <> ''),
    team            text NOT NULL CHECK (btrim(team) <> ''),
    agent           text NOT NULL CHECK (btrim(agent) <> ''),
    workload        text NOT NULL CHECK (btrim(workload) <> ''),
    customer        text NOT NULL DEFAULT '',
    labels          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'revoked')),
    expires_at      timestamptz,
    max_spend_nanos bigint CHECK (max_spend_nanos >= 0),
    rpm             bigint CHECK (rpm > 0),
    tpm             bigint CHECK (tpm > 0),
    max_parallel    bigint CHECK (max_parallel > 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    version         bigint NOT NULL UNIQUE
);

CREATE TABLE key_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id    text NOT NULL REFERENCES keys,
    at        timestamptz NOT NULL DEFAULT now(),
    who       text NOT NULL,
    what      text NOT NULL,
    why       text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX key_changes_by_key ON key_changes (key_id, change_id);

-- `document` is ledger.budgets.to_document(); the columns beside it overrule what it says of themselves.
-- `counts_from`: sidecars count the calls that they enforced at this version or later, the ledger adds all others.
-- `counted_at`: when the ledger added the calls that were already in the books; NULL: not yet, hence not yet published.
CREATE TABLE budgets (
    budget_id   text PRIMARY KEY CHECK (btrim(budget_id) <> ''),
    name        text NOT NULL CHECK (btrim(name) <> ''),
    document    jsonb NOT NULL CHECK (jsonb_typeof(document -> 'where') = 'array'),
    removed     boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    version     bigint NOT NULL UNIQUE,
    counts_from bigint NOT NULL,
    counted_at  timestamptz
);
CREATE UNIQUE INDEX budgets_name ON budgets (name) WHERE NOT removed;
CREATE INDEX budgets_to_count ON budgets (version) WHERE counted_at IS NULL AND NOT removed;

CREATE TABLE budget_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id text NOT NULL REFERENCES budgets,
    at        timestamptz NOT NULL DEFAULT now(),
    who       text NOT NULL,
    what      text NOT NULL,
    why       text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX budget_changes_by_budget ON budget_changes (budget_id, change_id);

CREATE FUNCTION budgets_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := next_directory_version();
    IF TG_OP = 'INSERT' THEN
        NEW.counts_from := NEW.version;
        NEW.counted_at := NULL;
        RETURN NEW;
    END IF;
    -- What a counter has counted cannot be counted again under another rule: that is another budget.
    IF OLD.removed AND NOT NEW.removed THEN
        RAISE EXCEPTION 'Budget % was removed; create a new one with a new budget_id.', OLD.budget_id
            USING ERRCODE = 'check_violation';
    END IF;
    IF (OLD.document -> 'where', OLD.document -> 'unit', OLD.document -> 'per', OLD.document -> 'time_zone')
        IS DISTINCT FROM
       (NEW.document -> 'where', NEW.document -> 'unit', NEW.document -> 'per', NEW.document -> 'time_zone') THEN
        RAISE EXCEPTION 'Budget % cannot change what it counts (where, unit, per, time_zone); remove it and create a new'
            ' one with a new budget_id.', OLD.budget_id USING ERRCODE = 'check_violation';
    END IF;
    NEW.counts_from := OLD.counts_from;
    RETURN NEW;
END $$;

CREATE TRIGGER budgets_before_insert BEFORE INSERT ON budgets
    FOR EACH ROW EXECUTE FUNCTION budgets_before_write();
CREATE TRIGGER budgets_before_update BEFORE UPDATE OF budget_id, name, document, removed ON budgets
    FOR EACH ROW EXECUTE FUNCTION budgets_before_write();

CREATE FUNCTION keys_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    mirror budgets.budget_id%TYPE;
    wanted boolean := NEW.max_spend_nanos IS NOT NULL AND NEW.status <> 'revoked';
BEGIN
    SELECT budget_id INTO mirror FROM budgets
     WHERE name = 'max_spend of key ' || NEW.key_id AND document ->> 'limit_source' = 'key' AND NOT removed;
    IF wanted AND mirror IS NULL THEN
        mirror := 'key-' || NEW.key_id;
        IF EXISTS (SELECT FROM budgets WHERE budget_id = mirror) THEN
            mirror := mirror || '-' || next_directory_version();  -- the limit was lifted once: another counter
        END IF;
        INSERT INTO budgets (budget_id, name, document)
        VALUES (mirror, 'max_spend of key ' || NEW.key_id, jsonb_build_object(
            'where', jsonb_build_array(jsonb_build_array('key', NEW.key_id)),
            'unit', 'usd', 'amount', NEW.max_spend_nanos, 'per', 'total', 'time_zone', 'UTC',
            'on_exceed', 'block', 'alerts', '[]'::jsonb, 'limit_source', 'key'));
    ELSIF wanted AND NEW.max_spend_nanos IS DISTINCT FROM OLD.max_spend_nanos THEN
        UPDATE budgets SET document = jsonb_set(document, '{amount}', to_jsonb(NEW.max_spend_nanos))
         WHERE budget_id = mirror;
    ELSIF NOT wanted AND mirror IS NOT NULL THEN
        UPDATE budgets SET removed = true WHERE budget_id = mirror;
    END IF;
    -- After its budget, so that nobody learns of the key before the limit on it.
    NEW.version := next_directory_version();
    RETURN NEW;
END $$;

CREATE TRIGGER keys_before_write BEFORE INSERT OR UPDATE ON keys
    FOR EACH ROW EXECUTE FUNCTION keys_before_write();

-- events 

-- The time is part of the identity because the table is partitioned by it; a sidecar takes it once per call.
CREATE TABLE events (
    event_id              text NOT NULL,
    producer              text NOT NULL,
    seq                   bigint NOT NULL,
    occurred_at           timestamptz NOT NULL,
    key_id                text NOT NULL,
    owner                 text NOT NULL,
    principal             text NOT NULL,
    team                  text NOT NULL,
    agent                 text NOT NULL,
    workload              text NOT NULL,
    customer              text NOT NULL,
    labels                jsonb NOT NULL,
    run_id                text NOT NULL,
    root_key_id           text NOT NULL,
    root_team             text NOT NULL,
    root_agent            text NOT NULL,
    root_workload         text NOT NULL,
    parent_key_id         text NOT NULL,
    depth                 bigint NOT NULL,
    chain_trust           text NOT NULL,
    provider              text NOT NULL,
    model_requested       text NOT NULL,
    model                 text NOT NULL,
    operation             text NOT NULL,
    streamed              boolean NOT NULL,
    input_tokens          bigint NOT NULL,
    cache_read_tokens     bigint NOT NULL,
    cache_write_5m_tokens bigint NOT NULL,
    cache_write_1h_tokens bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    reasoning_tokens      bigint NOT NULL,
    audio_input_tokens    bigint NOT NULL,
    audio_output_tokens   bigint NOT NULL,
    cost_nanos            bigint,            -- NULL: the price is unknown
    provider_cost_nanos   bigint,
    price_source          text NOT NULL,
    usage_source          text NOT NULL,
    hold_nanos            bigint NOT NULL,
    price_version         text NOT NULL,
    provider_response_id  text NOT NULL,
    http_status           bigint NOT NULL,
    outcome               text NOT NULL,
    refusal               text NOT NULL,
    latency_ms            bigint NOT NULL,
    first_byte_ms         bigint,
    attempts              bigint NOT NULL,
    route                 text NOT NULL,
    policy_version        bigint NOT NULL,
    service_tier          text NOT NULL,
    PRIMARY KEY (event_id, occurred_at),
    UNIQUE (producer, seq, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE TABLE events_default PARTITION OF events DEFAULT;
CREATE INDEX events_by_time ON events (occurred_at);
CREATE INDEX events_by_key ON events (key_id, occurred_at);

-- `contiguous`: every seq from 1 to it is an event or a dead letter. `highest`: the highest that was seen.
CREATE TABLE producers (
    producer   text PRIMARY KEY,
    contiguous bigint NOT NULL,
    highest    bigint NOT NULL CHECK (highest >= contiguous),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE dead_letters (
    letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id text NOT NULL,
    payload   bytea NOT NULL,
    reason    text NOT NULL,
    producer  text,
    seq       bigint,
    at        timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX dead_letters_by_seq ON dead_letters (producer, seq) WHERE producer IS NOT NULL;
CREATE UNIQUE INDEX dead_letters_by_entry ON dead_letters (stream_id) WHERE producer IS NULL;

-- rollups: sums of events per hour and everything that spending is asked by

CREATE TABLE rollups (
    hour                  timestamptz NOT NULL,
    dimensions            uuid NOT NULL,     -- md5 of the columns below, up to `operation`: too wide for an index
    key_id                text NOT NULL,
    owner                 text NOT NULL,
    principal             text NOT NULL,
    team                  text NOT NULL,
    agent                 text NOT NULL,
    workload              text NOT NULL,
    customer              text NOT NULL,
    labels                jsonb NOT NULL,
    root_key_id           text NOT NULL,
    root_team             text NOT NULL,
    root_agent            text NOT NULL,
    root_workload         text NOT NULL,
    chain_trust           text NOT NULL,
    provider              text NOT NULL,
    model                 text NOT NULL,
    operation             text NOT NULL,
    calls                 bigint NOT NULL,
    refused_calls         bigint NOT NULL,
    failed_calls          bigint NOT NULL,   -- neither ok nor refused
    unpriced_calls        bigint NOT NULL,   -- not refused, and the price is unknown
    estimated_calls       bigint NOT NULL,
    input_tokens          bigint NOT NULL,
    cache_read_tokens     bigint NOT NULL,
    cache_write_5m_tokens bigint NOT NULL,
    cache_write_1h_tokens bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    reasoning_tokens      bigint NOT NULL,
    audio_input_tokens    bigint NOT NULL,
    audio_output_tokens   bigint NOT NULL,
    cost_nanos            bigint NOT NULL,
    provider_cost_nanos   bigint NOT NULL,
    latency_ms            bigint NOT NULL,
    PRIMARY KEY (hour, dimensions)
);

-- journal: double entry, append-only

-- One transaction per priced event, named by its event_id.
CREATE TABLE journal (
    transaction_id text NOT NULL,
    occurred_at    timestamptz NOT NULL,
    account        text NOT NULL CHECK (account <> ''),
    amount_nanos   bigint NOT NULL
) PARTITION BY RANGE (occurred_at);
CREATE TABLE journal_default PARTITION OF journal DEFAULT;
CREATE INDEX journal_by_transaction ON journal (transaction_id);
CREATE INDEX journal_by_account ON journal (account, occurred_at);

CREATE FUNCTION journal_must_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    unbalanced text;
BEGIN
    SELECT transaction_id INTO unbalanced FROM written
     GROUP BY transaction_id HAVING sum(amount_nanos) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'Journal transaction % does not sum to zero.', unbalanced USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal_must_balance AFTER INSERT ON journal REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION journal_must_balance();

CREATE FUNCTION journal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'The journal is append-only; correct it with a transaction of its own.'
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER journal_is_append_only BEFORE UPDATE OR DELETE ON journal
    FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only();

-- what the ledger itself owes to the counters in Redis

-- Numbered in commit order (under the books' lock) and applied in that order, each once. `producer` and `seq` name the
-- late event; they are NULL in the base of a new budget.
CREATE TABLE adjustments (
    adjustment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id     text NOT NULL REFERENCES budgets,
    window_name   text NOT NULL,
    expires_at_ms bigint NOT NULL,    -- when Redis may forget the counter; 0: never
    amount        bigint NOT NULL,
    producer      text,
    seq           bigint,
    at            timestamptz NOT NULL DEFAULT now()
);

-- partitions 

-- A month that already has rows in DEFAULT cannot be split off here; the audit reports those rows.
CREATE FUNCTION ensure_partitions(months_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month timestamp;
    parent text;
BEGIN
    FOR month IN SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month',
                                        date_trunc('month', now() AT TIME ZONE 'UTC') + months_ahead * interval '1 month',
                                        interval '1 month') LOOP
        FOREACH parent IN ARRAY ARRAY['events', 'journal'] LOOP
            CONTINUE WHEN to_regclass(parent || to_char(month, '_YYYY_MM')) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                    parent || to_char(month, '_YYYY_MM'), parent,
                    to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                    to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'Partition % of % was not created: its rows are in the default partition.',
                    to_char(month, 'YYYY_MM'), parent;
            END;
        END LOOP;
    END LOOP;
END $$;
SELECT ensure_partitions(3);
