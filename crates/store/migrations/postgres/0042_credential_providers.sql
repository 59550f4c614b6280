-- A value that a file or a command of the control plane's machine gives: which one is said by a name that
-- the control plane's own file explains. There is no secret to keep for it.
CREATE TABLE credential_providers (
    namespace      TEXT COLLATE "C" NOT NULL,
    name           TEXT COLLATE "C" NOT NULL,
    provider       TEXT COLLATE "C" NOT NULL,
    probe_url      TEXT COLLATE "C",
    revoke_old     BIGINT NOT NULL,
    broken         TEXT COLLATE "C",
    renewing_until BIGINT NOT NULL,
    fruitless_at   BIGINT NOT NULL,
    fruitless      TEXT COLLATE "C",
    mac            BYTEA  NOT NULL,
    PRIMARY KEY (namespace, name),
    FOREIGN KEY (namespace, name) REFERENCES credentials (namespace, name)
);

-- When a provider was last asked without giving anything new, and why not.
ALTER TABLE credential_sources ADD COLUMN fruitless_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE credential_sources ADD COLUMN fruitless TEXT COLLATE "C";
