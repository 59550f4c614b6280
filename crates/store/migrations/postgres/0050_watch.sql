-- What the watch over the audit log compares entries with. Nothing here decides about a call.
CREATE TABLE watch_cursors (
    namespace TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq       BIGINT           NOT NULL
);

CREATE TABLE watch_denials (
    namespace TEXT COLLATE "C" NOT NULL,
    agent     TEXT COLLATE "C" NOT NULL,
    seq       BIGINT           NOT NULL,
    at_ms     BIGINT           NOT NULL,
    count     BIGINT           NOT NULL,
    PRIMARY KEY (namespace, agent, seq)
);
CREATE INDEX watch_denials_by_time ON watch_denials (namespace, agent, at_ms);

CREATE TABLE watch_networks (
    namespace TEXT COLLATE "C" NOT NULL,
    agent     TEXT COLLATE "C" NOT NULL,
    network   TEXT COLLATE "C" NOT NULL,
    last_at   BIGINT           NOT NULL,
    PRIMARY KEY (namespace, agent, network)
);

CREATE TABLE watch_tools (
    namespace TEXT COLLATE "C" NOT NULL,
    agent     TEXT COLLATE "C" NOT NULL,
    tool      TEXT COLLATE "C" NOT NULL,
    first_at  BIGINT           NOT NULL,
    PRIMARY KEY (namespace, agent, tool)
);

CREATE TABLE watch_hours (
    namespace TEXT COLLATE "C" NOT NULL,
    agent     TEXT COLLATE "C" NOT NULL,
    hour      BIGINT           NOT NULL,
    calls     BIGINT           NOT NULL,
    PRIMARY KEY (namespace, agent, hour)
);

-- What was said when: the same is not said again at once.
CREATE TABLE watch_alerts (
    namespace TEXT COLLATE "C" NOT NULL,
    rule      TEXT COLLATE "C" NOT NULL,
    about     TEXT COLLATE "C" NOT NULL,
    at_ms     BIGINT           NOT NULL,
    PRIMARY KEY (namespace, rule, about)
);

-- Alerts that are sent somewhere.
CREATE TABLE watch_deliveries (
    namespace TEXT COLLATE "C" NOT NULL,
    seq       BIGINT           NOT NULL,
    state     TEXT COLLATE "C" NOT NULL,
    attempts  BIGINT           NOT NULL,
    due_at    BIGINT           NOT NULL,
    PRIMARY KEY (namespace, seq)
);
CREATE INDEX watch_deliveries_due ON watch_deliveries (namespace, due_at) WHERE state = 'pending';
