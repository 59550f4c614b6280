-- How the epoch began: by the time (current), or by a backup that was loaded (restored) and that waits until
-- somebody confirms what was revoked since it was made (held).
ALTER TABLE epoch ADD COLUMN state TEXT COLLATE "C" NOT NULL DEFAULT 'current';
