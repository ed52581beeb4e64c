-- Runs that were started or ended here, the keys that sign chains, and who pays for what a chain spends.

-- Settings that the sidecars follow; the directory has each as `setting:<name>`.
CREATE TABLE published_settings (
    name     text PRIMARY KEY CHECK (btrim(name) <> ''),
    document jsonb NOT NULL CHECK (jsonb_typeof(document) = 'object'),
    version  bigint NOT NULL UNIQUE
);

-- `until_us` NULL: nothing has taken its place. `secret` is empty once the key is removed.
CREATE TABLE chain_keys (
    kid        text PRIMARY KEY CHECK (btrim(kid) <> ''),
    secret     bytea NOT NULL CHECK (removed OR octet_length(secret) >= 32),
    from_us    bigint NOT NULL,
    until_us   bigint CHECK (until_us >= from_us),
    removed    boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL UNIQUE
);

-- Of signing keys and of who pays.
CREATE TABLE chain_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    who       text NOT NULL,
    what      text NOT NULL,
    subject   text NOT NULL,
    why       text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX chain_changes_by_subject ON chain_changes (subject, change_id);

-- Runs that were started here, and runs that a sidecar started and that were ended here: of such a one the root may be
-- unknown (NULL). The labels are those that the root's key had when the run started. `removed`: over for so long that
-- the sidecars need not know of it any more.
CREATE TABLE runs (
    run_id     text PRIMARY KEY CHECK (btrim(run_id) <> ''),
    name       text NOT NULL DEFAULT '',
    root       jsonb CHECK (root ?& ARRAY['key_id', 'owner', 'team', 'agent', 'workload']),
    audience   jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(audience) = 'array'),
    budget_id  text REFERENCES budgets,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL DEFAULT '',
    why        text NOT NULL DEFAULT '',
    ended_at   timestamptz,
    ended_by   text NOT NULL DEFAULT '',
    ended_why  text NOT NULL DEFAULT '',
    removed    boolean NOT NULL DEFAULT false,
    version    bigint NOT NULL UNIQUE,
    CHECK (root IS NOT NULL OR ended_at IS NOT NULL)
);
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_open ON runs (expires_at) WHERE NOT removed;

CREATE FUNCTION published_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := next_directory_version();
    RETURN NEW;
END $$;
CREATE TRIGGER published_settings_before_write BEFORE INSERT OR UPDATE ON published_settings
    FOR EACH ROW EXECUTE FUNCTION published_before_write();
CREATE TRIGGER chain_keys_before_write BEFORE INSERT OR UPDATE ON chain_keys
    FOR EACH ROW EXECUTE FUNCTION published_before_write();
CREATE TRIGGER runs_before_write BEFORE INSERT OR UPDATE ON runs
    FOR EACH ROW EXECUTE FUNCTION published_before_write();

-- Runs are looked for among the calls that a chain was named for.
CREATE INDEX events_in_chains ON events (occurred_at) WHERE chain_trust <> '';

-- Who pays, as ledger/journal.py books it. Halves do not add up over an hour: the odd nanodollar of each call is the
-- root's, so the rollups keep what the root pays.

CREATE FUNCTION root_share(billing text, root_team text, cost_nanos bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN root_team = '' THEN 0
                WHEN billing = 'root' THEN cost_nanos
                WHEN billing = 'split' THEN cost_nanos - (cost_nanos >> 1)
                ELSE 0 END
$$;

ALTER TABLE rollups ADD COLUMN root_cost_nanos bigint NOT NULL DEFAULT 0;

-- A row per team that pays, with its share. A call is counted with one of them, so that counts add up as costs do: with
-- the caller's where both pay.
CREATE FUNCTION billed(billing text, team text, root_team text, cost_nanos bigint, root_cost_nanos bigint)
RETURNS TABLE (billed_team text, counted integer, share_nanos bigint) LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN billing = 'root' AND root_team <> '' THEN root_team ELSE team END, 1,
           CASE WHEN billing = 'split' AND root_team <> '' THEN cost_nanos - root_cost_nanos ELSE cost_nanos END
    UNION ALL
    SELECT root_team, 0, root_cost_nanos WHERE billing = 'split' AND root_team <> ''
$$;

-- The same for a question that does not ask who pays: every row stands for itself.
CREATE FUNCTION unbilled(billing text, team text, root_team text, cost_nanos bigint, root_cost_nanos bigint)
RETURNS TABLE (counted integer, share_nanos bigint) LANGUAGE sql IMMUTABLE AS $$
    SELECT 1, cost_nanos
$$;
