-- What was archived of the audit log, oldest first: its entries are in a file, and are dropped from here.
-- Each row is sealed, and follows from the one before it.
CREATE TABLE audit_segments (
    last        BIGINT NOT NULL PRIMARY KEY,
    first       BIGINT NOT NULL,
    before_hash BLOB   NOT NULL,
    hash        BLOB   NOT NULL,
    until_ms    BIGINT NOT NULL,
    file        TEXT   NOT NULL,
    at_ms       BIGINT NOT NULL,
    dropped     BIGINT NOT NULL,
    mac         BLOB   NOT NULL
);

-- Who archives, and until when that counts unless it says so again: one control plane at a time.
CREATE TABLE audit_archiving (
    "only"      BIGINT NOT NULL PRIMARY KEY CHECK ("only" = 1),
    holder      TEXT   NOT NULL,
    until_ms    BIGINT NOT NULL
);
