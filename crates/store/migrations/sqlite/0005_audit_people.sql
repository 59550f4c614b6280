-- The keys that personal data in the audit log is encrypted under, wrapped; a key that was destroyed leaves
-- its row, so that no other is made for somebody who was erased.
CREATE TABLE audit_people (
    namespace   TEXT    NOT NULL,
    person      TEXT    NOT NULL,
    nonce       BLOB,
    wrapped     BLOB,
    made_at     BIGINT  NOT NULL,
    erased_at   BIGINT,
    PRIMARY KEY (namespace, person)
);
