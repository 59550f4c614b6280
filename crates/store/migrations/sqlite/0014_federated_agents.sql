-- Who an agent is at an identity provider, and when the newest of its tokens was issued.
ALTER TABLE agents ADD COLUMN issuer TEXT;
ALTER TABLE agents ADD COLUMN subject TEXT;
ALTER TABLE agents ADD COLUMN issued_at BIGINT;
CREATE UNIQUE INDEX agents_by_subject ON agents (namespace, issuer, subject);
