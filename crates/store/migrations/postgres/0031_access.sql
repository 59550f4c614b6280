-- Who asked to be allowed what, and what became of it.
CREATE TABLE access_requests (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace   TEXT COLLATE "C" NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL,
    tool        TEXT COLLATE "C" NOT NULL,
    action      TEXT COLLATE "C" NOT NULL,
    policy      TEXT COLLATE "C",
    lasts       BIGINT           NOT NULL,
    reason      TEXT COLLATE "C" NOT NULL,
    asked_by    TEXT COLLATE "C" NOT NULL,
    asked_at    BIGINT           NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    decided_by  TEXT COLLATE "C",
    decided_at  BIGINT,
    note        TEXT COLLATE "C",
    own         BIGINT           NOT NULL,
    ends_at     BIGINT           NOT NULL,
    seal        BYTEA            NOT NULL
);
CREATE INDEX access_by_agent ON access_requests (namespace, agent, tool, state);
CREATE INDEX access_by_asker ON access_requests (namespace, asked_by);
CREATE INDEX access_by_end ON access_requests (namespace, ends_at)
    WHERE state IN ('pending', 'approved');

-- Nobody approves what a service or bot of their own asks for.
ALTER TABLE agents ADD COLUMN created_by TEXT COLLATE "C";
