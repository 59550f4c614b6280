//! The rows of stored credentials.

use super::{
    StoreTransaction, Stored,
    read::{select, version_row},
    text,
};
use crate::{
    row::{Columns, RowError, integer, json},
    sql::{Row, Statement, statement},
};
use async_trait::async_trait;
use std::time::Duration;
use xylem_audit::Reason;
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, Namespace, Slot, Version, WorkflowType};
use xylem_seal::Mac;
use xylem_vault::{
    Binding, BindingRow, Credential, CredentialRow, CredentialRows, CredentialVersion,
    CredentialVersionRow, Fruitless, OAuth, Provided, Source, SourceRow, Supply, VersionRow,
    VersionState,
};

macro_rules! columns {
    (credentials $rest:literal) => {
        concat!(
            "SELECT namespace, name, owner, audiences, rotate_every, last, created_at, removed_at,
                data_key, mac FROM credentials ",
            $rest
        )
    };
    (credential_versions $rest:literal) => {
        concat!(
            "SELECT namespace, name, version, state, state_since, fingerprint, expires_at, depositor,
                deposited_at, request, secret_id, mac FROM credential_versions ",
            $rest
        )
    };
    (credential_sources $rest:literal) => {
        concat!(
            "SELECT namespace, name, oauth, broken, client_id, refresh_id, renewing_until,
                fruitless_at, fruitless, mac FROM credential_sources ",
            $rest
        )
    };
    (credential_providers $rest:literal) => {
        concat!(
            "SELECT namespace, name, provider, probe_url, revoke_old, broken, renewing_until,
                fruitless_at, fruitless, mac FROM credential_providers ",
            $rest
        )
    };
    (credential_bindings $rest:literal) => {
        concat!(
            "SELECT namespace, workflow_type, slot, name, created_by, created_at, mac
             FROM credential_bindings ",
            $rest
        )
    };
}

#[async_trait]
impl CredentialRows for StoreTransaction {
    async fn credential(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Option<CredentialRow>> {
        let query = statement(columns!(credentials "WHERE namespace = $1 AND name = $2"));
        self.one(query.bind(text(namespace)).bind(text(name)), credential_row)
            .await
    }

    async fn credentials(
        &mut self,
        namespace: &Namespace,
        owner: Option<&AgentId>,
        after: Option<&CredentialName>,
        limit: u32,
    ) -> Stored<Vec<CredentialRow>> {
        let query = statement(columns!(credentials
            "WHERE namespace = $1 AND removed_at IS NULL AND name > $2 AND ($4 = '' OR owner = $4)
             ORDER BY name LIMIT $3"));
        let after = after.map(text).unwrap_or_default();
        let query = query.bind(text(namespace)).bind(after).bind(limit);
        let query = query.bind(owner.map(text).unwrap_or_default());
        self.all(query, credential_row).await
    }

    async fn put_credential(&mut self, row: &CredentialRow) -> Stored<()> {
        self.run(put_credential(row)).await.map(drop)
    }

    async fn credential_versions(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Vec<CredentialVersionRow>> {
        let query = statement(columns!(credential_versions
            "WHERE namespace = $1 AND name = $2 ORDER BY version"));
        let query = query.bind(text(namespace)).bind(text(name));
        self.all(query, credential_version_row).await
    }

    async fn put_credential_version(&mut self, row: &CredentialVersionRow) -> Stored<()> {
        self.run(put_credential_version(row)).await.map(drop)
    }

    async fn source(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Option<SourceRow>> {
        let query = statement(columns!(credential_sources "WHERE namespace = $1 AND name = $2"));
        let query = query.bind(text(namespace)).bind(text(name));
        if let Some(found) = self.one(query, source_row).await? {
            return Ok(Some(found));
        }
        let query = statement(columns!(credential_providers "WHERE namespace = $1 AND name = $2"));
        let query = query.bind(text(namespace)).bind(text(name));
        self.one(query, provided_row).await
    }

    async fn put_source(&mut self, row: &SourceRow) -> Stored<()> {
        let put = match &row.source.supply {
            Supply::OAuth(oauth) => put_source(row, oauth),
            Supply::Provider(provided) => put_provided(row, provided),
        };
        self.run(put).await.map(drop)
    }

    async fn delete_source(&mut self, namespace: &Namespace, name: &CredentialName) -> Stored<()> {
        for delete in [
            "DELETE FROM credential_sources WHERE namespace = $1 AND name = $2",
            "DELETE FROM credential_providers WHERE namespace = $1 AND name = $2",
        ] {
            let delete = statement(delete).bind(text(namespace)).bind(text(name));
            self.run(delete).await?;
        }
        Ok(())
    }

    async fn bindings(&mut self, namespace: &Namespace) -> Stored<Vec<BindingRow>> {
        let query = statement(columns!(credential_bindings
            "WHERE namespace = $1 ORDER BY workflow_type, slot"));
        self.all(query.bind(text(namespace)), binding_row).await
    }

    async fn put_binding(&mut self, row: &BindingRow) -> Stored<()> {
        let binding = &row.binding;
        let insert = statement(
            "INSERT INTO credential_bindings (namespace, workflow_type, slot, name, created_by,
                created_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(text(&binding.namespace))
        .bind(text(&binding.workflow_type))
        .bind(text(&binding.slot))
        .bind(text(&binding.credential))
        .bind(text(&binding.created_by))
        .bind(integer(binding.created_at.0))
        .bind(row.mac.0.to_vec());
        self.run(insert).await.map(drop)
    }

    async fn delete_binding(
        &mut self,
        namespace: &Namespace,
        workflow_type: &WorkflowType,
        slot: &Slot,
    ) -> Stored<()> {
        let delete = statement(
            "DELETE FROM credential_bindings
             WHERE namespace = $1 AND workflow_type = $2 AND slot = $3",
        )
        .bind(text(namespace))
        .bind(text(workflow_type))
        .bind(text(slot));
        self.run(delete).await.map(drop)
    }

    async fn copies(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Vec<VersionRow>> {
        let query = statement(select!(versions
            "WHERE credential = $1 AND state <> 'revoked' AND EXISTS (
                SELECT 1 FROM trees WHERE trees.start_id = versions.start_id
                    AND trees.namespace = $2)
             ORDER BY start_id, slot, version"));
        let query = query.bind(text(name)).bind(text(namespace));
        self.all(query, version_row).await
    }
}

fn credential_row(row: &Row) -> Result<CredentialRow, RowError> {
    let columns = Columns::new(row, "credential");
    let rotate_every: Option<u64> = columns.optional_number("rotate_every")?;
    let removed_at: Option<u64> = columns.optional_number("removed_at")?;
    Ok(CredentialRow {
        credential: Credential {
            namespace: columns.parsed("namespace")?,
            name: columns.parsed("name")?,
            owner: columns.parsed("owner")?,
            audiences: columns.json("audiences")?,
            rotate_every: rotate_every.map(Duration::from_secs),
            last: columns.number("last")?,
            created_at: UnixSeconds(columns.number("created_at")?),
            removed_at: removed_at.map(UnixSeconds),
        },
        data_key: columns.optional("data_key")?,
        mac: Mac(columns.bytes("mac")?),
    })
}

fn put_credential(row: &CredentialRow) -> Statement {
    let credential = &row.credential;
    statement(
        "INSERT INTO credentials (namespace, name, owner, audiences, rotate_every, last,
            created_at, removed_at, data_key, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (namespace, name) DO UPDATE SET owner = excluded.owner,
            audiences = excluded.audiences, rotate_every = excluded.rotate_every,
            last = excluded.last, created_at = excluded.created_at,
            removed_at = excluded.removed_at, data_key = excluded.data_key, mac = excluded.mac",
    )
    .bind(text(&credential.namespace))
    .bind(text(&credential.name))
    .bind(text(&credential.owner))
    .bind(json(&credential.audiences))
    .bind(
        credential
            .rotate_every
            .map(|every| integer(every.as_secs())),
    )
    .bind(credential.last)
    .bind(integer(credential.created_at.0))
    .bind(credential.removed_at.map(|at| integer(at.0)))
    .bind(row.data_key.as_ref().map(text))
    .bind(row.mac.0.to_vec())
}

fn credential_version_row(row: &Row) -> Result<CredentialVersionRow, RowError> {
    let columns = Columns::new(row, "version of a credential");
    let state = VersionState::from_code(columns.raw("state")?);
    let expires_at: Option<u64> = columns.optional_number("expires_at")?;
    Ok(CredentialVersionRow {
        info: CredentialVersion {
            namespace: columns.parsed("namespace")?,
            name: columns.parsed("name")?,
            version: Version(columns.number("version")?),
            state: state.ok_or_else(|| columns.unreadable())?,
            state_since: UnixSeconds(columns.number("state_since")?),
            fingerprint: columns.parsed("fingerprint")?,
            expires_at: expires_at.map(UnixSeconds),
            depositor: columns.parsed("depositor")?,
            deposited_at: UnixSeconds(columns.number("deposited_at")?),
            request: columns.parsed("request")?,
        },
        secret: columns.optional("secret_id")?,
        mac: Mac(columns.bytes("mac")?),
    })
}

fn put_credential_version(row: &CredentialVersionRow) -> Statement {
    let info = &row.info;
    statement(
        "INSERT INTO credential_versions (namespace, name, version, state, state_since,
            fingerprint, expires_at, depositor, deposited_at, request, secret_id, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (namespace, name, version) DO UPDATE SET state = excluded.state,
            state_since = excluded.state_since, expires_at = excluded.expires_at,
            secret_id = excluded.secret_id, mac = excluded.mac",
    )
    .bind(text(&info.namespace))
    .bind(text(&info.name))
    .bind(info.version.0)
    .bind(info.state.code())
    .bind(integer(info.state_since.0))
    .bind(text(&info.fingerprint))
    .bind(info.expires_at.map(|at| integer(at.0)))
    .bind(text(&info.depositor))
    .bind(integer(info.deposited_at.0))
    .bind(text(&info.request))
    .bind(row.secret.as_ref().map(text))
    .bind(row.mac.0.to_vec())
}

fn source_row(row: &Row) -> Result<SourceRow, RowError> {
    let columns = Columns::new(row, "source of a credential");
    let supply = Supply::OAuth(columns.json("oauth")?);
    Ok(SourceRow {
        client: Some(columns.parsed("client_id")?),
        refresh: columns.optional("refresh_id")?,
        ..any_source(&columns, supply)?
    })
}

fn provided_row(row: &Row) -> Result<SourceRow, RowError> {
    let columns = Columns::new(row, "provider of a credential");
    let probe_url: Option<&str> = columns.raw("probe_url")?;
    let revoke_old: u64 = columns.number("revoke_old")?;
    let provided = Provided {
        name: columns.raw::<&str>("provider")?.to_owned(),
        probe_url: probe_url.map(str::to_owned),
        revoke_old: revoke_old != 0,
    };
    any_source(&columns, Supply::Provider(provided))
}

/// What all sources have.
fn any_source(columns: &Columns<'_>, supply: Supply) -> Result<SourceRow, RowError> {
    let reason = |name| {
        let code: Option<&str> = columns.raw(name)?;
        let parsed = |code| Reason::parse(code).ok_or_else(|| columns.unreadable());
        code.map(parsed).transpose()
    };
    let asked: u64 = columns.number("fruitless_at")?;
    let why = reason("fruitless")?;
    Ok(SourceRow {
        namespace: columns.parsed("namespace")?,
        name: columns.parsed("name")?,
        source: Source {
            supply,
            broken: reason("broken")?,
            fruitless: (asked > 0).then_some(Fruitless {
                at: UnixSeconds(asked),
                reason: why,
            }),
        },
        client: None,
        refresh: None,
        renewing_until: UnixSeconds(columns.number("renewing_until")?),
        mac: Mac(columns.bytes("mac")?),
    })
}

/// When it was last asked in vain, 0 where it was not, and why.
fn fruitless(source: &Source) -> (i64, Option<String>) {
    let last = source.fruitless.as_ref();
    let why = last.and_then(|last| last.reason.as_ref());
    (
        last.map_or(0, |last| integer(last.at.0)),
        why.map(ToString::to_string),
    )
}

fn put_provided(row: &SourceRow, provided: &Provided) -> Statement {
    let (asked, why) = fruitless(&row.source);
    statement(
        "INSERT INTO credential_providers (namespace, name, provider, probe_url, revoke_old, broken,
            renewing_until, fruitless_at, fruitless, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (namespace, name) DO UPDATE SET provider = excluded.provider,
            probe_url = excluded.probe_url, revoke_old = excluded.revoke_old,
            broken = excluded.broken, renewing_until = excluded.renewing_until,
            fruitless_at = excluded.fruitless_at, fruitless = excluded.fruitless,
            mac = excluded.mac",
    )
    .bind(text(&row.namespace))
    .bind(text(&row.name))
    .bind(provided.name.clone())
    .bind(provided.probe_url.clone())
    .bind(i64::from(provided.revoke_old))
    .bind(row.source.broken.as_ref().map(text))
    .bind(integer(row.renewing_until.0))
    .bind(asked)
    .bind(why)
    .bind(row.mac.0.to_vec())
}

fn put_source(row: &SourceRow, oauth: &OAuth) -> Statement {
    let (asked, why) = fruitless(&row.source);
    statement(
        "INSERT INTO credential_sources (namespace, name, oauth, broken, client_id, refresh_id,
            renewing_until, fruitless_at, fruitless, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (namespace, name) DO UPDATE SET oauth = excluded.oauth,
            broken = excluded.broken, client_id = excluded.client_id,
            refresh_id = excluded.refresh_id, renewing_until = excluded.renewing_until,
            fruitless_at = excluded.fruitless_at, fruitless = excluded.fruitless,
            mac = excluded.mac",
    )
    .bind(text(&row.namespace))
    .bind(text(&row.name))
    .bind(json(oauth))
    .bind(row.source.broken.as_ref().map(text))
    .bind(row.client.as_ref().map(text))
    .bind(row.refresh.as_ref().map(text))
    .bind(integer(row.renewing_until.0))
    .bind(asked)
    .bind(why)
    .bind(row.mac.0.to_vec())
}

fn binding_row(row: &Row) -> Result<BindingRow, RowError> {
    let columns = Columns::new(row, "credential binding");
    Ok(BindingRow {
        binding: Binding {
            namespace: columns.parsed("namespace")?,
            workflow_type: columns.parsed("workflow_type")?,
            slot: columns.parsed("slot")?,
            credential: columns.parsed("name")?,
            created_by: columns.parsed("created_by")?,
            created_at: UnixSeconds(columns.number("created_at")?),
        },
        mac: Mac(columns.bytes("mac")?),
    })
}
