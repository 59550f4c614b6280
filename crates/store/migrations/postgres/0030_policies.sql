-- Append only: a change is the next version.
CREATE TABLE policies (
    namespace   TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    version     BIGINT           NOT NULL,
    document    TEXT COLLATE "C" NOT NULL,
    retired     BIGINT           NOT NULL,
    author      TEXT COLLATE "C" NOT NULL,
    at          BIGINT           NOT NULL,
    seal        BYTEA            NOT NULL,
    PRIMARY KEY (namespace, name, version)
);

CREATE TABLE policy_sets (
    namespace   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    generation  BIGINT           NOT NULL,
    seal        BYTEA            NOT NULL
);

-- Not sealed: to set a counter back takes the database, and buys calls, no token.
CREATE TABLE policy_usage (
    namespace   TEXT COLLATE "C" NOT NULL,
    policy      TEXT COLLATE "C" NOT NULL,
    per         TEXT COLLATE "C" NOT NULL,
    of_what     TEXT COLLATE "C" NOT NULL,
    subject     TEXT COLLATE "C" NOT NULL,
    started_at  BIGINT           NOT NULL,
    used        BIGINT           NOT NULL,
    PRIMARY KEY (namespace, policy, per, of_what, subject)
);
CREATE INDEX policy_usage_by_age ON policy_usage (started_at);
