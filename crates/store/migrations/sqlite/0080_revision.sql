-- One number for all that requests are decided by. Whatever changes any of it replaces the number: so does a
-- control plane of an earlier version, and whoever edits rows by hand. No number comes again, so that a database
-- that was put back to an earlier state is not mistaken for a later one.
CREATE TABLE revision (
    "only"  BIGINT NOT NULL PRIMARY KEY CHECK ("only" = 1),
    number  BIGINT NOT NULL
);
INSERT INTO revision ("only", number) VALUES (1, random());

CREATE TRIGGER revised_by_insert_of_agents AFTER INSERT ON agents
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_agents AFTER UPDATE ON agents
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_agents AFTER DELETE ON agents
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_api_keys AFTER INSERT ON api_keys
BEGIN UPDATE revision SET number = random(); END;
-- That a key was used decides nothing.
CREATE TRIGGER revised_by_update_of_api_keys AFTER UPDATE ON api_keys
WHEN NEW.last_used_at IS OLD.last_used_at
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_api_keys AFTER DELETE ON api_keys
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_revoked_tokens AFTER INSERT ON revoked_tokens
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_revoked_tokens AFTER UPDATE ON revoked_tokens
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_revoked_tokens AFTER DELETE ON revoked_tokens
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_tool_records AFTER INSERT ON tool_records
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_tool_records AFTER UPDATE ON tool_records
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_tool_records AFTER DELETE ON tool_records
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_tool_versions AFTER INSERT ON tool_versions
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_tool_versions AFTER UPDATE ON tool_versions
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_tool_versions AFTER DELETE ON tool_versions
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_tool_tags AFTER INSERT ON tool_tags
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_tool_tags AFTER UPDATE ON tool_tags
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_tool_tags AFTER DELETE ON tool_tags
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_policies AFTER INSERT ON policies
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_policies AFTER UPDATE ON policies
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_policies AFTER DELETE ON policies
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_policy_sets AFTER INSERT ON policy_sets
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_policy_sets AFTER UPDATE ON policy_sets
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_policy_sets AFTER DELETE ON policy_sets
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_insert_of_access_requests AFTER INSERT ON access_requests
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_update_of_access_requests AFTER UPDATE ON access_requests
BEGIN UPDATE revision SET number = random(); END;
CREATE TRIGGER revised_by_delete_of_access_requests AFTER DELETE ON access_requests
BEGIN UPDATE revision SET number = random(); END;
