-- One number for all that requests are decided by. Whatever changes any of it replaces the number: so does a
-- control plane of an earlier version, and whoever edits rows by hand. No number comes again, so that a database
-- that was put back to an earlier state is not mistaken for a later one.
CREATE TABLE revision (
    "only"  BIGINT NOT NULL PRIMARY KEY CHECK ("only" = 1),
    number  BIGINT NOT NULL
);
INSERT INTO revision ("only", number) VALUES (1, CAST(random() * 9007199254740992 AS BIGINT));

CREATE FUNCTION revised() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE revision SET number = CAST(random() * 9007199254740992 AS BIGINT);
    RETURN NULL;
END
$$;

CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON agents
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON revoked_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tool_records
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tool_versions
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tool_tags
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON policies
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON policy_sets
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON access_requests
    FOR EACH STATEMENT EXECUTE FUNCTION revised();

-- That a key was used decides nothing.
CREATE TRIGGER revised AFTER INSERT OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION revised();
CREATE TRIGGER revised_by_update AFTER UPDATE ON api_keys
    FOR EACH ROW WHEN (NEW.last_used_at IS NOT DISTINCT FROM OLD.last_used_at) EXECUTE FUNCTION revised();

-- Also for sessions that have triggers off.
ALTER TABLE agents ENABLE ALWAYS TRIGGER revised;
ALTER TABLE revoked_tokens ENABLE ALWAYS TRIGGER revised;
ALTER TABLE tool_records ENABLE ALWAYS TRIGGER revised;
ALTER TABLE tool_versions ENABLE ALWAYS TRIGGER revised;
ALTER TABLE tool_tags ENABLE ALWAYS TRIGGER revised;
ALTER TABLE policies ENABLE ALWAYS TRIGGER revised;
ALTER TABLE policy_sets ENABLE ALWAYS TRIGGER revised;
ALTER TABLE access_requests ENABLE ALWAYS TRIGGER revised;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER revised;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER revised_by_update;
