-- Append only: a change is the next version.
CREATE TABLE policies (
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     BIGINT  NOT NULL,
    document    TEXT    NOT NULL,
    retired     BIGINT  NOT NULL,
    author      TEXT    NOT NULL,
    at          BIGINT  NOT NULL,
    seal        BLOB    NOT NULL,
    PRIMARY KEY (namespace, name, version)
);

CREATE TABLE policy_sets (
    namespace   TEXT    NOT NULL PRIMARY KEY,
    generation  BIGINT  NOT NULL,
    seal        BLOB    NOT NULL
);

-- Not sealed: to set a counter back takes the database, and buys calls, no token.
CREATE TABLE policy_usage (
    namespace   TEXT    NOT NULL,
    policy      TEXT    NOT NULL,
    per         TEXT    NOT NULL,
    of_what     TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    started_at  BIGINT  NOT NULL,
    used        BIGINT  NOT NULL,
    PRIMARY KEY (namespace, policy, per, of_what, subject)
);
CREATE INDEX policy_usage_by_age ON policy_usage (started_at);
