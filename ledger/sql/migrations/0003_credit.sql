-- Prepaid credit: wallets, what was paid into and out of them, and who may have a run counted.
--
-- A wallet's credit is money that was received and not yet earned. In the journal:
--   top_up      +amount `cash` (or `receivable`: the invoice is not paid yet)   -amount `credit:<wallet>`
--   withdrawal  +amount `credit:<wallet>`                                       -amount `cash` (or `receivable`)
--   usage       +cost   `credit:<wallet>`                                       -cost   `revenue:usage`
-- `credit:<wallet>` is a liability: what is left of it is minus the sum of its entries. Usage belongs to the event's own
-- transaction, beside what the call cost its team and is owed to its provider.
--
-- A wallet pays for the calls that its selector picks and that a sidecar let through knowing of it (the event's
-- policy_version is not below the `counts_from` of its budget), unless the caller's own provider credential paid. No two
-- wallets can pick the same call.

CREATE TABLE wallets (
    wallet_id         text PRIMARY KEY CHECK (btrim(wallet_id) <> ''),
    name              text NOT NULL UNIQUE CHECK (btrim(name) <> ''),
    selector          jsonb NOT NULL CHECK (jsonb_typeof(selector) = 'array'),   -- as `where` of a budget
    alert_below_nanos bigint CHECK (alert_below_nanos > 0),
    created_at        timestamptz NOT NULL DEFAULT now()
);
-- The writer looks for the wallets of a batch by the first label that they ask for.
CREATE INDEX wallets_by_label ON wallets (coalesce(selector -> 0 ->> 0, ''), coalesce(selector -> 0 ->> 1, ''));

-- Credit paid in (positive) and out (negative). Usage is in the journal alone.
CREATE TABLE wallet_transactions (
    transaction_id text PRIMARY KEY,                    -- of the journal
    wallet_id      text NOT NULL REFERENCES wallets,
    kind           text NOT NULL CHECK (kind IN ('top_up', 'withdrawal')),
    amount_nanos   bigint NOT NULL CHECK (CASE kind WHEN 'top_up' THEN amount_nanos > 0 ELSE amount_nanos < 0 END),
    against        text NOT NULL CHECK (against IN ('cash', 'receivable')),
    reference      text NOT NULL DEFAULT '',
    at             timestamptz NOT NULL DEFAULT now(),
    who            text NOT NULL,
    why            text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX wallet_transactions_by_reference ON wallet_transactions (wallet_id, reference)
    WHERE reference <> '';
CREATE INDEX wallet_transactions_by_wallet ON wallet_transactions (wallet_id, at);

-- A wallet is mirrored into `budgets`, as a key's limits are: every counter refuses when it is empty.
CREATE FUNCTION wallets_after_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO budgets (budget_id, name, document)
    VALUES ('wallet-' || NEW.wallet_id, NEW.name, jsonb_build_object(
        'where', NEW.selector, 'unit', 'usd', 'amount', 0, 'per', 'total', 'time_zone', 'UTC',
        'on_exceed', 'block', 'alerts', '[]'::jsonb, 'limit_source', 'wallet'));
    RETURN NULL;
END $$;
CREATE TRIGGER wallets_after_insert AFTER INSERT ON wallets
    FOR EACH ROW EXECUTE FUNCTION wallets_after_insert();

CREATE FUNCTION wallets_keep_their_calls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.wallet_id, NEW.name, NEW.selector) = (OLD.wallet_id, OLD.name, OLD.selector) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'Wallet % cannot go, nor change its name or which calls it pays for; withdraw what is left of it.',
        OLD.name USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER wallets_keep_their_calls BEFORE UPDATE OR DELETE ON wallets
    FOR EACH ROW EXECUTE FUNCTION wallets_keep_their_calls();

CREATE FUNCTION wallet_transactions_after_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    credited bigint;
BEGIN
    UPDATE budgets
       SET document = jsonb_set(document, '{amount}', to_jsonb((document ->> 'amount')::bigint + NEW.amount_nanos))
     WHERE budget_id = 'wallet-' || NEW.wallet_id
    RETURNING (document ->> 'amount')::bigint INTO credited;
    IF credited < 0 THEN
        RAISE EXCEPTION 'More cannot be withdrawn than was ever paid in.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER wallet_transactions_after_insert AFTER INSERT ON wallet_transactions
    FOR EACH ROW EXECUTE FUNCTION wallet_transactions_after_insert();
CREATE TRIGGER wallet_transactions_are_append_only BEFORE UPDATE OR DELETE ON wallet_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only();

-- `usage` transactions are named by their event, all others by their row in `wallet_transactions`.
ALTER TABLE journal
    ADD COLUMN kind text NOT NULL DEFAULT 'usage' CHECK (kind IN ('usage', 'top_up', 'withdrawal'));

-- A budget may be for one run, which the rollups do not know.
CREATE INDEX events_by_run ON events (run_id, occurred_at) WHERE run_id <> '';
