-- Chains: who pays for a call, what named its run and its place in it; and calls of tools and agents.

ALTER TABLE events
    ADD COLUMN billing text NOT NULL DEFAULT '',
    ADD COLUMN chain_signal text NOT NULL DEFAULT '',
    ADD COLUMN chain_fault text NOT NULL DEFAULT '',
    ADD COLUMN chain_path text NOT NULL DEFAULT '',
    ADD COLUMN tool_name text NOT NULL DEFAULT '',
    ADD COLUMN target_agent text NOT NULL DEFAULT '';

-- As `byok`: a dimension beside `dimensions`, so that rows that are there keep theirs.
ALTER TABLE rollups
    ADD COLUMN billing text NOT NULL DEFAULT '',
    DROP CONSTRAINT rollups_pkey,
    ADD PRIMARY KEY (hour, dimensions, byok, billing);
