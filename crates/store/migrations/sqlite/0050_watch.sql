-- What the watch over the audit log compares entries with. Nothing here decides about a call.
CREATE TABLE watch_cursors (
    namespace TEXT   NOT NULL PRIMARY KEY,
    seq       BIGINT NOT NULL
);

CREATE TABLE watch_denials (
    namespace TEXT   NOT NULL,
    agent     TEXT   NOT NULL,
    seq       BIGINT NOT NULL,
    at_ms     BIGINT NOT NULL,
    count     BIGINT NOT NULL,
    PRIMARY KEY (namespace, agent, seq)
);
CREATE INDEX watch_denials_by_time ON watch_denials (namespace, agent, at_ms);

CREATE TABLE watch_networks (
    namespace TEXT   NOT NULL,
    agent     TEXT   NOT NULL,
    network   TEXT   NOT NULL,
    last_at   BIGINT NOT NULL,
    PRIMARY KEY (namespace, agent, network)
);

CREATE TABLE watch_tools (
    namespace TEXT   NOT NULL,
    agent     TEXT   NOT NULL,
    tool      TEXT   NOT NULL,
    first_at  BIGINT NOT NULL,
    PRIMARY KEY (namespace, agent, tool)
);

CREATE TABLE watch_hours (
    namespace TEXT   NOT NULL,
    agent     TEXT   NOT NULL,
    hour      BIGINT NOT NULL,
    calls     BIGINT NOT NULL,
    PRIMARY KEY (namespace, agent, hour)
);

-- What was said when: the same is not said again at once.
CREATE TABLE watch_alerts (
    namespace TEXT   NOT NULL,
    rule      TEXT   NOT NULL,
    about     TEXT   NOT NULL,
    at_ms     BIGINT NOT NULL,
    PRIMARY KEY (namespace, rule, about)
);

-- Alerts that are sent somewhere.
CREATE TABLE watch_deliveries (
    namespace TEXT   NOT NULL,
    seq       BIGINT NOT NULL,
    state     TEXT   NOT NULL,
    attempts  BIGINT NOT NULL,
    due_at    BIGINT NOT NULL,
    PRIMARY KEY (namespace, seq)
);
CREATE INDEX watch_deliveries_due ON watch_deliveries (namespace, due_at) WHERE state = 'pending';
