-- The body is the entry, and its source; the columns after the seals are there to find it by. An entry's
-- place is its id: it is given when the entry is written, and no number is left out.
CREATE TABLE audit (
    seq               BIGINT           NOT NULL PRIMARY KEY,
    body              TEXT COLLATE "C" NOT NULL,
    hash              BYTEA            NOT NULL,
    mac               BYTEA            NOT NULL,
    at_ms             BIGINT           NOT NULL,
    kind              TEXT COLLATE "C" NOT NULL,
    verdict           TEXT COLLATE "C" NOT NULL,
    namespace         TEXT COLLATE "C",
    agent             TEXT COLLATE "C",
    tree_workflow_id  TEXT COLLATE "C",
    tree_first_run_id TEXT COLLATE "C",
    workflow_id       TEXT COLLATE "C",
    tool              TEXT COLLATE "C",
    slot              TEXT COLLATE "C"
);
CREATE INDEX audit_by_tree ON audit (tree_workflow_id, tree_first_run_id, seq);
CREATE INDEX audit_by_workflow ON audit (workflow_id, seq);
CREATE INDEX audit_by_kind ON audit (kind, seq);
CREATE INDEX audit_by_agent ON audit (agent, seq);
CREATE INDEX audit_by_tool ON audit (tool, seq);

-- Where the log ends. Whoever appends holds this row from reading it to the end of the transaction.
CREATE TABLE audit_head (
    "only"        BIGINT           NOT NULL PRIMARY KEY CHECK ("only" = 1),
    chain         BYTEA            NOT NULL,
    seq           BIGINT           NOT NULL,
    hash          BYTEA            NOT NULL,
    checkpoint    BIGINT           NOT NULL,
    checkpoint_at BIGINT           NOT NULL,
    mac           BYTEA            NOT NULL
);

CREATE TABLE audit_checkpoints (
    seq    BIGINT           NOT NULL PRIMARY KEY,
    at_ms  BIGINT           NOT NULL,
    signed TEXT COLLATE "C" NOT NULL
);
