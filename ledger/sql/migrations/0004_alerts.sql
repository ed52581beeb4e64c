-- Alerts: what was said of budgets, whom it is sent to, and the durable queue in between.

-- One row each time that something is said; never the same twice. `threshold` is a percentage, and nanodollars in
-- `low_balance`. `round` counts on only after a raise: see ledger/alerts.py. `name`, `selector`, `amount` and `used` are
-- as they were then.
CREATE TABLE alerts (
    alert_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id        text NOT NULL REFERENCES budgets,
    window_name      text NOT NULL,
    kind             text NOT NULL
                     CHECK (kind IN ('threshold', 'exhausted', 'forecast', 'overrun', 'low_balance')),
    threshold        bigint NOT NULL,
    round            integer NOT NULL CHECK (round > 0),
    at               timestamptz NOT NULL,
    name             text NOT NULL,
    selector         jsonb NOT NULL,
    unit             text NOT NULL,
    amount           bigint NOT NULL,
    used             bigint NOT NULL,
    window_starts_at timestamptz,             -- NULL where the window never turns
    window_ends_at   timestamptz,
    gone_at          timestamptz,             -- of a forecast
    overrun_nanos    bigint NOT NULL,
    message          text NOT NULL,
    cleared_at       timestamptz,             -- when a raise had made it untrue again
    UNIQUE (budget_id, window_name, kind, threshold, round)
);
CREATE INDEX alerts_by_time ON alerts (at, alert_id);
CREATE INDEX alerts_by_window_end ON alerts (window_ends_at);

-- `kinds` empty: all of them. `secret` empty: Slack's form is not signed, its URL is the secret; or the endpoint ended.
CREATE TABLE webhooks (
    endpoint_id text PRIMARY KEY CHECK (btrim(endpoint_id) <> ''),
    url         text NOT NULL CHECK (url ~ '^https?://'),
    secret      text NOT NULL,
    form        text NOT NULL CHECK (form IN ('standard', 'slack')),
    kinds       text[] NOT NULL,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    end_reason  text CHECK (end_reason IN ('removed', 'gone'))
);

-- `message_id` is the same in every attempt, so that a receiver can tell a repetition.
CREATE TABLE deliveries (
    delivery_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id        bigint NOT NULL REFERENCES alerts ON DELETE CASCADE,
    endpoint_id     text NOT NULL REFERENCES webhooks,
    message_id      text NOT NULL UNIQUE DEFAULT 'msg_' || replace(gen_random_uuid()::text, '-', ''),
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed', 'dropped')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    claimed_until   timestamptz NOT NULL DEFAULT '-infinity',
    last_status     integer,
    last_error      text NOT NULL DEFAULT '',
    delivered_at    timestamptz,
    UNIQUE (alert_id, endpoint_id)
);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at, delivery_id) WHERE state = 'pending';
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, state);

-- What alerts look for among the events is rare.
CREATE INDEX events_refused ON events (refused_by, occurred_at) WHERE refused_by <> '';
CREATE INDEX events_overrun ON events (occurred_at) WHERE hold_nanos > 0 AND cost_nanos > hold_nanos;
