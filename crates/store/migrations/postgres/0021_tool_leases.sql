-- Calls of tools that take no token of the tree: those with a stored credential, and those without
-- any. Beside the leases on versions of slots, for the same reasons.
CREATE TABLE tool_leases (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    start_id    TEXT COLLATE "C" NOT NULL REFERENCES trees (start_id),
    credential  TEXT COLLATE "C",
    version     BIGINT,
    tool        TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    run_id      TEXT COLLATE "C" NOT NULL,
    activity_id TEXT COLLATE "C" NOT NULL,
    attempt     BIGINT  NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL,
    opened_at   BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL,
    released_at BIGINT
);
CREATE INDEX tool_leases_open ON tool_leases (credential, version, expires_at)
    WHERE released_at IS NULL;
CREATE INDEX tool_leases_by_end ON tool_leases (expires_at);
