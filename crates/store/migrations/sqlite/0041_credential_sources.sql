-- Where a credential's value comes from, if it is obtained by itself. How is JSON without secrets; those
-- lie encrypted under the credential's data key.
CREATE TABLE credential_sources (
    namespace      TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    oauth          TEXT   NOT NULL,
    broken         TEXT,
    client_id      TEXT   NOT NULL REFERENCES secrets (id),
    refresh_id     TEXT   REFERENCES secrets (id),
    renewing_until BIGINT NOT NULL,
    mac            BLOB   NOT NULL,
    PRIMARY KEY (namespace, name),
    FOREIGN KEY (namespace, name) REFERENCES credentials (namespace, name)
);
