-- The body is the entry, and its source; the columns after the seals are there to find it by. An entry's
-- place is its id: it is given when the entry is written, and no number is left out.
CREATE TABLE audit (
    seq               BIGINT NOT NULL PRIMARY KEY,
    body              TEXT   NOT NULL,
    hash              BLOB   NOT NULL,
    mac               BLOB   NOT NULL,
    at_ms             BIGINT NOT NULL,
    kind              TEXT   NOT NULL,
    verdict           TEXT   NOT NULL,
    namespace         TEXT,
    agent             TEXT,
    tree_workflow_id  TEXT,
    tree_first_run_id TEXT,
    workflow_id       TEXT,
    tool              TEXT,
    slot              TEXT
);
CREATE INDEX audit_by_tree ON audit (tree_workflow_id, tree_first_run_id, seq);
CREATE INDEX audit_by_workflow ON audit (workflow_id, seq);
CREATE INDEX audit_by_kind ON audit (kind, seq);
CREATE INDEX audit_by_agent ON audit (agent, seq);
CREATE INDEX audit_by_tool ON audit (tool, seq);

-- Where the log ends. Whoever appends holds this row from reading it to the end of the transaction.
CREATE TABLE audit_head (
    only          BIGINT NOT NULL PRIMARY KEY CHECK (only = 1),
    chain         BLOB   NOT NULL,
    seq           BIGINT NOT NULL,
    hash          BLOB   NOT NULL,
    checkpoint    BIGINT NOT NULL,
    checkpoint_at BIGINT NOT NULL,
    mac           BLOB   NOT NULL
);

CREATE TABLE audit_checkpoints (
    seq    BIGINT NOT NULL PRIMARY KEY,
    at_ms  BIGINT NOT NULL,
    signed TEXT   NOT NULL
);
