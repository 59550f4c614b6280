-- Second factors: the secret encrypted and bound to its agent; the last step whose code was used.
CREATE TABLE second_factors (
    namespace       TEXT COLLATE "C" NOT NULL,
    agent           TEXT COLLATE "C" NOT NULL,
    nonce           BYTEA            NOT NULL,
    ciphertext      BYTEA            NOT NULL,
    created_at      BIGINT           NOT NULL,
    confirmed_at    BIGINT,
    last_step       BIGINT           NOT NULL,
    seal            BYTEA            NOT NULL,
    PRIMARY KEY (namespace, agent)
);

-- Recovery codes that were not used, by a keyed hash.
CREATE TABLE recovery_codes (
    hash        BYTEA            NOT NULL PRIMARY KEY,
    namespace   TEXT COLLATE "C" NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL
);
CREATE INDEX recovery_codes_by_agent ON recovery_codes (namespace, agent);
