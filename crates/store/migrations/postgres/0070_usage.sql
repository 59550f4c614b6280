-- How often tools were called: counted from the audit log, one row for each class of durations. Nothing
-- here decides about a call.
CREATE TABLE usage_hours (
    namespace TEXT COLLATE "C" NOT NULL,
    agent     TEXT COLLATE "C" NOT NULL,
    tool      TEXT COLLATE "C" NOT NULL,
    -- Counted from 1970.
    hour      BIGINT NOT NULL,
    -- 1, or 24 where the hours of a day were added up.
    hours     BIGINT NOT NULL,
    -- The longest duration of the class, in milliseconds.
    class     BIGINT NOT NULL,
    calls     BIGINT NOT NULL,
    failures  BIGINT NOT NULL,
    denials   BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    bytes_in  BIGINT NOT NULL,
    PRIMARY KEY (namespace, hour, hours, agent, tool, class)
);
