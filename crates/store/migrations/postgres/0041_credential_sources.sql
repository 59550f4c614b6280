-- Where a credential's value comes from, if it is obtained by itself. How is JSON without secrets; those
-- lie encrypted under the credential's data key.
CREATE TABLE credential_sources (
    namespace      TEXT COLLATE "C" NOT NULL,
    name           TEXT COLLATE "C" NOT NULL,
    oauth          TEXT COLLATE "C" NOT NULL,
    broken         TEXT COLLATE "C",
    client_id      TEXT COLLATE "C" NOT NULL REFERENCES secrets (id),
    refresh_id     TEXT COLLATE "C" REFERENCES secrets (id),
    renewing_until BIGINT NOT NULL,
    mac            BYTEA  NOT NULL,
    PRIMARY KEY (namespace, name),
    FOREIGN KEY (namespace, name) REFERENCES credentials (namespace, name)
);
