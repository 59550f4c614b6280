-- What a key-encryption key still wraps, and whose it is.
CREATE INDEX keys_by_wrapper ON keys (wrapped_by);
CREATE INDEX trees_by_data_key ON trees (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX credentials_by_data_key ON credentials (data_key) WHERE data_key IS NOT NULL;
