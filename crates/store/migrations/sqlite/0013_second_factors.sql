-- Second factors: the secret encrypted and bound to its agent; the last step whose code was used.
CREATE TABLE second_factors (
    namespace       TEXT    NOT NULL,
    agent           TEXT    NOT NULL,
    nonce           BLOB    NOT NULL,
    ciphertext      BLOB    NOT NULL,
    created_at      BIGINT  NOT NULL,
    confirmed_at    BIGINT,
    last_step       BIGINT  NOT NULL,
    seal            BLOB    NOT NULL,
    PRIMARY KEY (namespace, agent)
);

-- Recovery codes that were not used, by a keyed hash.
CREATE TABLE recovery_codes (
    hash        BLOB    NOT NULL PRIMARY KEY,
    namespace   TEXT    NOT NULL,
    agent       TEXT    NOT NULL
);
CREATE INDEX recovery_codes_by_agent ON recovery_codes (namespace, agent);
