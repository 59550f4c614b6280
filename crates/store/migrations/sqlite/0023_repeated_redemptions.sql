-- The id under which a worker may ask for the same lease again, within its attempt: the answer can get lost.
ALTER TABLE single_calls ADD COLUMN request TEXT;
