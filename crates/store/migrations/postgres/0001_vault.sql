-- Keys, wrapped by a key-encryption key that is not in this database.
CREATE TABLE keys (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    purpose     TEXT COLLATE "C" NOT NULL,
    generation  BIGINT           NOT NULL,
    wrapped_by  TEXT COLLATE "C" NOT NULL,
    nonce       BYTEA            NOT NULL,
    wrapped     BYTEA            NOT NULL
);
CREATE INDEX keys_by_purpose ON keys (purpose) WHERE purpose <> 'tree';

CREATE TABLE epoch (
    "only"      BIGINT           NOT NULL PRIMARY KEY CHECK ("only" = 1),
    epoch       BIGINT           NOT NULL,
    mac         BYTEA            NOT NULL
);

-- A tree has a row before its root has a first run. It is starting, bound, stopped, or terminated,
-- which is stopped by termination.
CREATE TABLE trees (
    start_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace    TEXT COLLATE "C" NOT NULL,
    workflow_id  TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    first_run_id TEXT COLLATE "C",
    stopped_at   BIGINT,
    intake       BIGINT           NOT NULL,
    tools        TEXT COLLATE "C" NOT NULL,
    owner        TEXT COLLATE "C" NOT NULL,
    opened_at    BIGINT           NOT NULL,
    request      TEXT COLLATE "C" NOT NULL,
    data_key     TEXT COLLATE "C" REFERENCES keys (id),
    mac          BYTEA            NOT NULL,
    opened_as    BIGINT           NOT NULL
);
CREATE UNIQUE INDEX trees_by_id ON trees (namespace, workflow_id, first_run_id);
CREATE UNIQUE INDEX trees_by_request ON trees (namespace, request);
CREATE UNIQUE INDEX trees_by_age ON trees (opened_as);
CREATE INDEX trees_starting ON trees (opened_as) WHERE state = 'starting';

-- Exclusions are a JSON list of [workflow id, with its subtree, who made it]: null for an operator,
-- for a node its workflow id and those above it, the root last.
CREATE TABLE slots (
    start_id    TEXT COLLATE "C" NOT NULL REFERENCES trees (start_id),
    slot        TEXT COLLATE "C" NOT NULL,
    last        BIGINT           NOT NULL,
    exclusions  TEXT COLLATE "C" NOT NULL,
    mac         BYTEA            NOT NULL,
    PRIMARY KEY (start_id, slot)
);

-- Ciphertexts stand apart from the versions that refer to them, so that one stored credential can
-- come to serve many trees.
CREATE TABLE secrets (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    data_key    TEXT COLLATE "C" NOT NULL,
    nonce       BYTEA            NOT NULL,
    ciphertext  BYTEA            NOT NULL
);

CREATE TABLE versions (
    start_id     TEXT COLLATE "C" NOT NULL,
    slot         TEXT COLLATE "C" NOT NULL,
    version      BIGINT           NOT NULL,
    serial       BIGINT           NOT NULL,
    epoch        BIGINT           NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    state_since  BIGINT           NOT NULL,
    exposed      BIGINT           NOT NULL,
    fingerprint  TEXT COLLATE "C" NOT NULL,
    audiences    TEXT COLLATE "C" NOT NULL,
    issued_at    BIGINT           NOT NULL,
    expires_at   BIGINT           NOT NULL,
    issued_grant TEXT COLLATE "C",
    issuer       TEXT COLLATE "C",
    depositor    TEXT COLLATE "C" NOT NULL,
    deposited_at BIGINT           NOT NULL,
    request      TEXT COLLATE "C" NOT NULL,
    secret_id    TEXT COLLATE "C" REFERENCES secrets (id),
    mac          BYTEA            NOT NULL,
    PRIMARY KEY (start_id, slot, version),
    FOREIGN KEY (start_id, slot) REFERENCES slots (start_id, slot)
);
CREATE UNIQUE INDEX versions_active ON versions (start_id, slot) WHERE state = 'active';
CREATE UNIQUE INDEX versions_by_request ON versions (start_id, request);
CREATE INDEX versions_by_expiry ON versions (expires_at) WHERE state = 'active';
CREATE INDEX versions_by_secret ON versions (secret_id);

CREATE TABLE leases (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    start_id    TEXT COLLATE "C" NOT NULL,
    slot        TEXT COLLATE "C" NOT NULL,
    version     BIGINT           NOT NULL,
    tool        TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    run_id      TEXT COLLATE "C" NOT NULL,
    activity_id TEXT COLLATE "C" NOT NULL,
    attempt     BIGINT           NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL,
    opened_at   BIGINT           NOT NULL,
    expires_at  BIGINT           NOT NULL,
    released_at BIGINT,
    FOREIGN KEY (start_id, slot, version) REFERENCES versions (start_id, slot, version)
);
CREATE INDEX leases_open ON leases (start_id, slot, version, expires_at) WHERE released_at IS NULL;
CREATE INDEX leases_by_end ON leases (expires_at);
CREATE INDEX leases_lapsed ON leases (expires_at) WHERE released_at IS NULL;
