CREATE TABLE tools (
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    slot        TEXT    NOT NULL,
    hash        TEXT    NOT NULL,
    definition  TEXT    NOT NULL,
    created_at  BIGINT  NOT NULL,
    changed_at  BIGINT  NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE agents (
    namespace   TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    roles       TEXT    NOT NULL,
    created_at  BIGINT  NOT NULL,
    PRIMARY KEY (namespace, id)
);

CREATE TABLE api_keys (
    id           TEXT    NOT NULL PRIMARY KEY,
    namespace    TEXT    NOT NULL,
    agent        TEXT    NOT NULL,
    roles        TEXT    NOT NULL,
    queues       TEXT    NOT NULL,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT,
    hash         BLOB    NOT NULL,
    seal         BLOB    NOT NULL,
    FOREIGN KEY (namespace, agent) REFERENCES agents (namespace, id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
CREATE INDEX api_keys_by_namespace ON api_keys (namespace, id);

CREATE TABLE definitions (
    namespace     TEXT NOT NULL,
    queue         TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    PRIMARY KEY (namespace, queue, workflow_type)
);

CREATE TABLE definition_slots (
    namespace     TEXT   NOT NULL,
    queue         TEXT   NOT NULL,
    workflow_type TEXT   NOT NULL,
    slot          TEXT   NOT NULL,
    transit       BIGINT NOT NULL,
    PRIMARY KEY (namespace, queue, workflow_type, slot),
    FOREIGN KEY (namespace, queue, workflow_type)
        REFERENCES definitions (namespace, queue, workflow_type)
);
