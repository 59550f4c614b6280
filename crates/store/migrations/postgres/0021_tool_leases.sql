-- Calls of tools that take no token of the tree: those with a stored credential, and those without
-- any. Beside the leases on versions of slots, for the same reasons.
CREATE TABLE tool_leases (
    id          TEXT    NOT NULL PRIMARY KEY,
    start_id    TEXT    NOT NULL REFERENCES trees (start_id),
    credential  TEXT,
    version     BIGINT,
    tool        TEXT    NOT NULL,
    workflow_id TEXT    NOT NULL,
    run_id      TEXT    NOT NULL,
    activity_id TEXT    NOT NULL,
    attempt     BIGINT  NOT NULL,
    agent       TEXT    NOT NULL,
    opened_at   BIGINT  NOT NULL,
    expires_at  BIGINT  NOT NULL,
    released_at BIGINT
);
CREATE INDEX tool_leases_open ON tool_leases (credential, version, expires_at)
    WHERE released_at IS NULL;
CREATE INDEX tool_leases_by_end ON tool_leases (expires_at);
