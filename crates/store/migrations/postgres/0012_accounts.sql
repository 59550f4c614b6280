-- Passwords of local accounts, hashed over a key that is not here. Sessions name the password they were
-- opened with.
CREATE TABLE passwords (
    namespace   TEXT COLLATE "C" NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    hash        TEXT COLLATE "C" NOT NULL,
    is_long     BIGINT           NOT NULL,
    seal        BYTEA            NOT NULL,
    PRIMARY KEY (namespace, agent)
);

-- Invitations to choose a password, by a keyed hash.
CREATE TABLE invitations (
    namespace   TEXT COLLATE "C" NOT NULL,
    agent       TEXT COLLATE "C" NOT NULL,
    hash        BYTEA            NOT NULL,
    expires_at  BIGINT           NOT NULL,
    PRIMARY KEY (namespace, agent)
);

-- Who is signed in. No token is here: they are derived from the row and a key that is not.
CREATE TABLE sessions (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    namespace       TEXT COLLATE "C" NOT NULL,
    agent           TEXT COLLATE "C" NOT NULL,
    client          TEXT COLLATE "C" NOT NULL,
    salt            BYTEA            NOT NULL,
    generation      BIGINT           NOT NULL,
    rotated_at_ms   BIGINT           NOT NULL,
    opened_at       BIGINT           NOT NULL,
    idle_until      BIGINT           NOT NULL,
    ends_at         BIGINT           NOT NULL,
    scopes          TEXT COLLATE "C",
    second_factor   BIGINT           NOT NULL,
    password        TEXT COLLATE "C" NOT NULL,
    ended_at        BIGINT,
    seal            BYTEA            NOT NULL
);
CREATE INDEX sessions_by_agent ON sessions (namespace, agent, opened_at);
CREATE INDEX sessions_by_end ON sessions (ends_at);

-- Attempts to sign in, counted under keyed hashes that name nobody, and the places that are known.
CREATE TABLE attempts (
    bucket      BYTEA            NOT NULL PRIMARY KEY,
    attempts    BIGINT           NOT NULL,
    since       BIGINT           NOT NULL,
    not_before  BIGINT           NOT NULL
);
CREATE INDEX attempts_by_since ON attempts (since);
CREATE TABLE known_places (
    bucket      BYTEA            NOT NULL PRIMARY KEY,
    seen_at     BIGINT           NOT NULL
);
CREATE INDEX known_places_by_age ON known_places (seen_at);
