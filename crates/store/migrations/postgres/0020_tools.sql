-- What is known of a tool beside its definitions, under one seal. State and search text are there to
-- find it by. A record without a seal comes from before tools were approved, and waits for that.
CREATE TABLE tool_records (
    namespace              TEXT COLLATE "C"   NOT NULL,
    name                   TEXT COLLATE "C"   NOT NULL,
    revision               BIGINT NOT NULL,
    owner                  TEXT COLLATE "C",
    version                BIGINT NOT NULL,
    hash                   TEXT COLLATE "C"   NOT NULL,
    slot                   TEXT COLLATE "C"   NOT NULL,
    published_by           TEXT COLLATE "C",
    published_at           BIGINT NOT NULL,
    latest                 BIGINT NOT NULL,
    staged                 BIGINT NOT NULL,
    rejected               BIGINT NOT NULL,
    approved_version       BIGINT,
    approved_hash          TEXT COLLATE "C",
    approved_slot          TEXT COLLATE "C",
    approved_published_by  TEXT COLLATE "C",
    approved_published_at  BIGINT,
    approved_by            TEXT COLLATE "C",
    approved_at            BIGINT,
    approved_own           BIGINT,
    retired_by             TEXT COLLATE "C",
    retired_at             BIGINT,
    stops_calls            BIGINT,
    deleted                BIGINT NOT NULL,
    created_at             BIGINT NOT NULL,
    seal                   BYTEA,
    state                  TEXT COLLATE "C"   NOT NULL,
    search                 TEXT COLLATE "C"   NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE tool_versions (
    namespace     TEXT COLLATE "C"   NOT NULL,
    name          TEXT COLLATE "C"   NOT NULL,
    version       BIGINT NOT NULL,
    hash          TEXT COLLATE "C"   NOT NULL,
    slot          TEXT COLLATE "C"   NOT NULL,
    definition    TEXT COLLATE "C"   NOT NULL,
    published_by  TEXT COLLATE "C",
    published_at  BIGINT NOT NULL,
    decision      TEXT COLLATE "C",
    decided_by    TEXT COLLATE "C",
    decided_at    BIGINT,
    reason        TEXT COLLATE "C",
    PRIMARY KEY (namespace, name, version),
    FOREIGN KEY (namespace, name) REFERENCES tool_records (namespace, name)
);

CREATE TABLE tool_tags (
    namespace  TEXT COLLATE "C" NOT NULL,
    tag        TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, tag, name),
    FOREIGN KEY (namespace, name) REFERENCES tool_records (namespace, name)
);

INSERT INTO tool_records (namespace, name, revision, version, hash, slot, published_at, latest,
    staged, rejected, deleted, created_at, state, search)
SELECT namespace, name, 1, 1, hash, slot, changed_at, 1, 0, 0, 0, created_at, 'proposed', name
FROM tools;

INSERT INTO tool_versions (namespace, name, version, hash, slot, definition, published_at)
SELECT namespace, name, 1, hash, slot, definition, changed_at FROM tools;
