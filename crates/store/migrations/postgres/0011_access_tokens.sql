-- Keys that sign access tokens, encrypted. Which of them signs follows from when they were made.
CREATE TABLE signing_keys (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_at  BIGINT           NOT NULL,
    nonce       BYTEA            NOT NULL,
    ciphertext  BYTEA            NOT NULL
);

-- Access tokens that were revoked, until they would have ended by themselves.
CREATE TABLE revoked_tokens (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    expires_at  BIGINT           NOT NULL
);
