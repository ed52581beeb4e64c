-- Agents as identities of their own, and what a call of a tool or of an agent costs.
--
-- As with keys and budgets, whoever writes never sets `version`: a trigger does.

CREATE TABLE agents (
    name          text PRIMARY KEY CHECK (btrim(name) <> ''),   -- the `agent` of its keys
    team          text NOT NULL CHECK (btrim(team) <> ''),
    owner         text NOT NULL CHECK (btrim(owner) <> ''),
    purpose       text NOT NULL CHECK (btrim(purpose) <> ''),
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'retired')),
    price_nanos   bigint CHECK (price_nanos >= 0),              -- of one call of it; NULL: nobody set a price
    registered_at timestamptz NOT NULL DEFAULT now(),
    version       bigint NOT NULL UNIQUE
);

CREATE TABLE agent_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL REFERENCES agents,
    at        timestamptz NOT NULL DEFAULT now(),
    who       text NOT NULL,
    what      text NOT NULL,
    why       text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX agent_changes_by_agent ON agent_changes (name, change_id);

-- A row stays when its price is taken away (NULL), so that the sidecars are told. `tool` is `*` for all of a server.
CREATE TABLE tool_prices (
    server      text NOT NULL CHECK (btrim(server) <> '' AND strpos(server, '/') = 0),
    tool        text NOT NULL CHECK (btrim(tool) <> ''),
    price_nanos bigint CHECK (price_nanos >= 0),
    version     bigint NOT NULL UNIQUE,
    PRIMARY KEY (server, tool)
);

CREATE TABLE tool_price_changes (
    change_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    server      text NOT NULL,
    tool        text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    who         text NOT NULL,
    why         text NOT NULL DEFAULT '',
    price_nanos bigint,
    FOREIGN KEY (server, tool) REFERENCES tool_prices
);
CREATE INDEX tool_price_changes_by_tool ON tool_price_changes (server, tool, change_id);

CREATE FUNCTION take_directory_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := next_directory_version();
    RETURN NEW;
END $$;

CREATE FUNCTION agents_before_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status = 'retired' AND NEW.status <> 'retired' THEN
        RAISE EXCEPTION 'The agent % is retired for good; register another one.', OLD.name
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER agents_before_update BEFORE UPDATE ON agents
    FOR EACH ROW EXECUTE FUNCTION agents_before_update();
CREATE TRIGGER agents_version BEFORE INSERT OR UPDATE ON agents
    FOR EACH ROW EXECUTE FUNCTION take_directory_version();
CREATE TRIGGER tool_prices_version BEFORE INSERT OR UPDATE ON tool_prices
    FOR EACH ROW EXECUTE FUNCTION take_directory_version();

-- No path issues a key to a retired agent, nor hands it one; the lock makes a retirement under way wait or be seen.
-- By their names these run before `keys_before_write`: an agent is locked before the directory, here as in a retirement.
CREATE FUNCTION keys_need_an_agent_at_work() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM agents WHERE name = NEW.agent AND status = 'retired' FOR SHARE;
    IF FOUND THEN
        RAISE EXCEPTION 'The agent % is retired, so no key can be issued to it.', NEW.agent
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keys_agent_at_work_on_insert BEFORE INSERT ON keys
    FOR EACH ROW EXECUTE FUNCTION keys_need_an_agent_at_work();
CREATE TRIGGER keys_agent_at_work_on_update BEFORE UPDATE OF agent ON keys
    FOR EACH ROW WHEN (NEW.agent IS DISTINCT FROM OLD.agent) EXECUTE FUNCTION keys_need_an_agent_at_work();

-- `ledger tools list` and `ledger agents show` look for these among all events.
CREATE INDEX events_of_tools ON events (provider, tool_name, occurred_at) WHERE tool_name <> '';
CREATE INDEX events_of_agents ON events (target_agent, occurred_at) WHERE target_agent <> '';
