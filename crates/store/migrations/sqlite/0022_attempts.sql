-- Calls of tools that are called at most once, by the activity that makes them: as soon as the API may have
-- been reached, no further attempt gets a token.
CREATE TABLE single_calls (
    run_id      TEXT    NOT NULL,
    activity_id TEXT    NOT NULL,
    lease_id    TEXT    NOT NULL,
    began_at    BIGINT  NOT NULL,
    PRIMARY KEY (run_id, activity_id)
);
CREATE INDEX single_calls_by_age ON single_calls (began_at);
