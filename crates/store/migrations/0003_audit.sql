-- Ids grow and are never used again.
CREATE TABLE audit (
    id                INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at_ms             BIGINT  NOT NULL,
    kind              TEXT    NOT NULL,
    verdict           TEXT    NOT NULL,
    agent             TEXT,
    namespace         TEXT,
    tree_workflow_id  TEXT,
    tree_first_run_id TEXT,
    workflow_id       TEXT,
    run_id            TEXT,
    activity_id       TEXT,
    attempt           BIGINT,
    tool              TEXT,
    slot              TEXT,
    epoch             BIGINT,
    version           BIGINT,
    serial            BIGINT,
    fingerprint       TEXT,
    lease             TEXT,
    reason            TEXT,
    note              TEXT,
    status            BIGINT,
    duration_ms       BIGINT,
    count             BIGINT  NOT NULL
);
CREATE INDEX audit_by_tree ON audit (tree_workflow_id, tree_first_run_id, id);
CREATE INDEX audit_by_workflow ON audit (workflow_id, id);
CREATE INDEX audit_by_kind ON audit (kind, id);
