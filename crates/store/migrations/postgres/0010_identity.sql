-- Agents and keys from before had roles that there are no more, and an agent's roles were not sealed.
-- They are made again; a tree keeps the name of its owner.
DROP TABLE api_keys;
DROP TABLE agents;

CREATE TABLE agents (
    namespace   TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    kind        TEXT COLLATE "C" NOT NULL,
    roles       TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT           NOT NULL,
    retired_at  BIGINT,
    seal        BYTEA            NOT NULL,
    PRIMARY KEY (namespace, id)
);

-- A key without scopes is not narrowed.
CREATE TABLE api_keys (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace    TEXT COLLATE "C" NOT NULL,
    agent        TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    scopes       TEXT COLLATE "C",
    queues       TEXT COLLATE "C" NOT NULL,
    networks     TEXT COLLATE "C" NOT NULL,
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
CREATE INDEX api_keys_by_agent ON api_keys (namespace, agent, id);
