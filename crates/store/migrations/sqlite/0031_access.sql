-- Who asked to be allowed what, and what became of it.
CREATE TABLE access_requests (
    id          TEXT    NOT NULL PRIMARY KEY,
    namespace   TEXT    NOT NULL,
    agent       TEXT    NOT NULL,
    tool        TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    policy      TEXT,
    lasts       BIGINT  NOT NULL,
    reason      TEXT    NOT NULL,
    asked_by    TEXT    NOT NULL,
    asked_at    BIGINT  NOT NULL,
    state       TEXT    NOT NULL,
    decided_by  TEXT,
    decided_at  BIGINT,
    note        TEXT,
    own         BIGINT  NOT NULL,
    ends_at     BIGINT  NOT NULL,
    seal        BLOB    NOT NULL
);
CREATE INDEX access_by_agent ON access_requests (namespace, agent, tool, state);
CREATE INDEX access_by_asker ON access_requests (namespace, asked_by);
CREATE INDEX access_by_end ON access_requests (namespace, ends_at)
    WHERE state IN ('pending', 'approved');

-- Nobody approves what a service or bot of their own asks for.
ALTER TABLE agents ADD COLUMN created_by TEXT;
