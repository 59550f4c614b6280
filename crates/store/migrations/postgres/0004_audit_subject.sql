-- For whom something was done, and what an administrative change is about. Few entries have them: the
-- indexes hold only those.
ALTER TABLE audit ADD COLUMN owner TEXT COLLATE "C";
ALTER TABLE audit ADD COLUMN subject TEXT COLLATE "C";
CREATE INDEX audit_by_owner ON audit (owner, seq) WHERE owner IS NOT NULL;
CREATE INDEX audit_by_subject ON audit (subject, seq) WHERE subject IS NOT NULL;
