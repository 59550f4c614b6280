-- A credential is a secret under a name of its own, for many trees. Its versions are as those of a slot.
CREATE TABLE credentials (
    namespace    TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    owner        TEXT COLLATE "C" NOT NULL,
    audiences    TEXT COLLATE "C" NOT NULL,
    rotate_every BIGINT,
    last         BIGINT           NOT NULL,
    created_at   BIGINT           NOT NULL,
    removed_at   BIGINT,
    data_key     TEXT COLLATE "C" REFERENCES keys (id),
    mac          BYTEA            NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE credential_versions (
    namespace    TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    version      BIGINT           NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    state_since  BIGINT           NOT NULL,
    fingerprint  TEXT COLLATE "C" NOT NULL,
    expires_at   BIGINT,
    depositor    TEXT COLLATE "C" NOT NULL,
    deposited_at BIGINT           NOT NULL,
    request      TEXT COLLATE "C" NOT NULL,
    secret_id    TEXT COLLATE "C" REFERENCES secrets (id),
    mac          BYTEA            NOT NULL,
    PRIMARY KEY (namespace, name, version),
    FOREIGN KEY (namespace, name) REFERENCES credentials (namespace, name)
);
CREATE UNIQUE INDEX credential_versions_active ON credential_versions (namespace, name)
    WHERE state = 'active';
CREATE UNIQUE INDEX credential_versions_by_request
    ON credential_versions (namespace, name, request);

-- Every tree whose root is of that type starts with the credential in that slot.
CREATE TABLE credential_bindings (
    namespace     TEXT COLLATE "C" NOT NULL,
    workflow_type TEXT COLLATE "C" NOT NULL,
    slot          TEXT COLLATE "C" NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    created_by    TEXT COLLATE "C" NOT NULL,
    created_at    BIGINT           NOT NULL,
    mac           BYTEA            NOT NULL,
    PRIMARY KEY (namespace, workflow_type, slot),
    FOREIGN KEY (namespace, name) REFERENCES credentials (namespace, name)
);

-- What a tree holds of a credential is a version of its own, encrypted under its own key.
ALTER TABLE versions ADD COLUMN credential TEXT COLLATE "C";
ALTER TABLE versions ADD COLUMN credential_version BIGINT;
CREATE INDEX versions_by_credential ON versions (credential, start_id)
    WHERE credential IS NOT NULL AND state <> 'revoked';
