CREATE TABLE tools (
    namespace   TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    slot        TEXT COLLATE "C" NOT NULL,
    hash        TEXT COLLATE "C" NOT NULL,
    definition  TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT           NOT NULL,
    changed_at  BIGINT           NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE agents (
    namespace   TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    roles       TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT           NOT NULL,
    PRIMARY KEY (namespace, id)
);

CREATE TABLE api_keys (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace    TEXT COLLATE "C" NOT NULL,
    agent        TEXT COLLATE "C" NOT NULL,
    roles        TEXT COLLATE "C" NOT NULL,
    queues       TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT           NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT,
    hash         BYTEA            NOT NULL,
    seal         BYTEA            NOT NULL,
    FOREIGN KEY (namespace, agent) REFERENCES agents (namespace, id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
CREATE INDEX api_keys_by_namespace ON api_keys (namespace, id);

CREATE TABLE definitions (
    namespace     TEXT COLLATE "C" NOT NULL,
    queue         TEXT COLLATE "C" NOT NULL,
    workflow_type TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, queue, workflow_type)
);

CREATE TABLE definition_slots (
    namespace     TEXT COLLATE "C" NOT NULL,
    queue         TEXT COLLATE "C" NOT NULL,
    workflow_type TEXT COLLATE "C" NOT NULL,
    slot          TEXT COLLATE "C" NOT NULL,
    transit       BIGINT           NOT NULL,
    PRIMARY KEY (namespace, queue, workflow_type, slot),
    FOREIGN KEY (namespace, queue, workflow_type)
        REFERENCES definitions (namespace, queue, workflow_type)
);
