//! From columns to rows.

use crate::{
    row::{Columns, RowError},
    sql::Row,
};
use xylem_audit::Activity;
use xylem_grant::UnixSeconds;
use xylem_ids::{Epoch, Serial, Version, WorkflowId};
use xylem_seal::{Mac, Sealed};
use xylem_vault::{
    CredentialMark, EpochRow, EpochState, ExcludedBy, Exclusion, KeyOwner, KeyRow, LeaseRow,
    Leased, OwnedKey, Purpose, SecretRow, SingleCall, SlotRow, Tree, TreeRow, TreeState,
    VersionInfo, VersionRow, VersionState, Wraps,
};

/// What is read of a table. A statement that names its columns still fits when a newer version of this
/// program has added one meanwhile.
macro_rules! select {
    (epoch $rest:literal) => {
        concat!("SELECT epoch, state, mac FROM epoch ", $rest)
    };
    (keys $rest:literal) => {
        concat!(
            "SELECT id, purpose, generation, wrapped_by, nonce, wrapped FROM keys ",
            $rest
        )
    };
    (trees $rest:literal) => {
        concat!(
            "SELECT start_id, namespace, workflow_id, state, first_run_id, stopped_at, intake, tools,
                owner, opened_at, request, data_key, mac FROM trees ",
            $rest
        )
    };
    (slots $rest:literal) => {
        concat!("SELECT start_id, slot, last, exclusions, mac FROM slots ", $rest)
    };
    (versions $rest:literal) => {
        concat!(
            "SELECT start_id, slot, version, serial, epoch, state, state_since, exposed, fingerprint,
                audiences, issued_at, expires_at, issued_grant, issuer, depositor, deposited_at,
                request, secret_id, credential, credential_version, mac FROM versions ",
            $rest
        )
    };
    (secrets $rest:literal) => {
        concat!("SELECT id, data_key, nonce, ciphertext FROM secrets ", $rest)
    };
    (leases $rest:literal) => {
        concat!(
            "SELECT id, start_id, slot, version, tool, workflow_id, run_id, activity_id, attempt,
                agent, opened_at, expires_at, released_at FROM leases ",
            $rest
        )
    };
    (tool_leases $rest:literal) => {
        concat!(
            "SELECT id, start_id, credential, version, tool, workflow_id, run_id, activity_id,
                attempt, agent, opened_at, expires_at, released_at FROM tool_leases ",
            $rest
        )
    };
}
pub(super) use select;

pub(super) fn epoch_row(row: &Row) -> Result<EpochRow, RowError> {
    let columns = Columns::new(row, "epoch");
    let state = EpochState::from_code(columns.raw("state")?);
    Ok(EpochRow {
        epoch: Epoch(columns.number("epoch")?),
        state: state.ok_or_else(|| columns.unreadable())?,
        mac: Mac(columns.bytes("mac")?),
    })
}

pub(super) fn key_row(row: &Row) -> Result<KeyRow, RowError> {
    let columns = Columns::new(row, "key");
    let purpose = Purpose::from_code(columns.raw("purpose")?);
    Ok(KeyRow {
        id: columns.parsed("id")?,
        purpose: purpose.ok_or_else(|| columns.unreadable())?,
        generation: columns.number("generation")?,
        wrapped_by: columns.parsed("wrapped_by")?,
        wrapped: sealed(&columns, "wrapped")?,
    })
}

/// None where that is no key's id: no key-encryption key is missing then, the rows were edited.
pub(crate) fn wraps(row: &Row) -> Result<Option<Wraps>, RowError> {
    let columns = Columns::new(row, "key");
    let by: &str = columns.raw("wrapped_by")?;
    let keys = columns.number("number")?;
    Ok(by.parse().ok().map(|by| Wraps { by, keys }))
}

/// One that was edited is named like the others.
pub(super) fn owned_key(row: &Row) -> Result<OwnedKey, RowError> {
    Ok(OwnedKey {
        id: Columns::new(row, "key").parsed("id")?,
        row: key_row(row).ok(),
        owner: key_owner(row).ok(),
    })
}

fn key_owner(row: &Row) -> Result<KeyOwner, RowError> {
    let columns = Columns::new(row, "key");
    if let Some(start) = columns.optional("start_id")? {
        return Ok(KeyOwner::Tree(start, columns.parsed("workflow_id")?));
    }
    let namespace = columns.optional("credential_namespace")?;
    match (namespace, columns.optional("credential_name")?) {
        (Some(namespace), Some(name)) => Ok(KeyOwner::Credential(namespace, name)),
        _ => Ok(KeyOwner::Vault),
    }
}

fn sealed(columns: &Columns<'_>, ciphertext: &str) -> Result<Sealed, RowError> {
    Ok(Sealed {
        nonce: columns.bytes("nonce")?,
        ciphertext: columns.raw(ciphertext)?,
    })
}

pub(super) fn tree_row(row: &Row) -> Result<TreeRow, RowError> {
    let columns = Columns::new(row, "tree");
    Ok(TreeRow {
        tree: Tree {
            start: columns.parsed("start_id")?,
            namespace: columns.parsed("namespace")?,
            workflow_id: columns.parsed("workflow_id")?,
            state: tree_state(&columns)?,
            intake: columns.flag("intake")?,
            tools: columns.json("tools")?,
            owner: columns.parsed("owner")?,
            opened_at: UnixSeconds(columns.number("opened_at")?),
            request: columns.parsed("request")?,
        },
        data_key: columns.optional("data_key")?,
        mac: Mac(columns.bytes("mac")?),
    })
}

fn tree_state(columns: &Columns<'_>) -> Result<TreeState, RowError> {
    let first_run_id = columns.optional("first_run_id")?;
    let stopped_at = columns.optional_number("stopped_at")?;
    match (columns.raw("state")?, first_run_id, stopped_at) {
        ("starting", None, None) => Ok(TreeState::Starting),
        ("bound", Some(first_run_id), None) => Ok(TreeState::Bound { first_run_id }),
        (state @ ("stopped" | "terminated"), first_run_id, Some(at)) => Ok(TreeState::Stopped {
            first_run_id,
            at: UnixSeconds(at),
            terminate: state == "terminated",
        }),
        _ => Err(columns.unreadable()),
    }
}

pub(super) fn slot_row(row: &Row) -> Result<SlotRow, RowError> {
    let columns = Columns::new(row, "slot");
    type Stored = (WorkflowId, bool, Option<Vec<WorkflowId>>);
    let exclusions: Vec<Stored> = columns.json("exclusions")?;
    Ok(SlotRow {
        start: columns.parsed("start_id")?,
        slot: columns.parsed("slot")?,
        last: columns.number("last")?,
        exclusions: exclusions
            .into_iter()
            .map(|(workflow_id, subtree, by)| Exclusion {
                workflow_id,
                subtree,
                by: by.map_or(ExcludedBy::Operator, ExcludedBy::Node),
            })
            .collect(),
        mac: Mac(columns.bytes("mac")?),
    })
}

pub(super) fn version_row(row: &Row) -> Result<VersionRow, RowError> {
    let columns = Columns::new(row, "version");
    let state = VersionState::from_code(columns.raw("state")?);
    Ok(VersionRow {
        info: VersionInfo {
            start: columns.parsed("start_id")?,
            slot: columns.parsed("slot")?,
            version: Version(columns.number("version")?),
            serial: Serial(columns.number("serial")?),
            epoch: Epoch(columns.number("epoch")?),
            state: state.ok_or_else(|| columns.unreadable())?,
            state_since: UnixSeconds(columns.number("state_since")?),
            exposed: columns.flag("exposed")?,
            fingerprint: columns.parsed("fingerprint")?,
            audiences: columns.json("audiences")?,
            issued_at: UnixSeconds(columns.number("issued_at")?),
            expires_at: UnixSeconds(columns.number("expires_at")?),
            grant: columns.raw("issued_grant")?,
            issuer: columns.optional("issuer")?,
            depositor: columns.parsed("depositor")?,
            deposited_at: UnixSeconds(columns.number("deposited_at")?),
            request: columns.parsed("request")?,
            credential: credential_mark(&columns)?,
        },
        secret: columns.optional("secret_id")?,
        mac: Mac(columns.bytes("mac")?),
    })
}

fn credential_mark(columns: &Columns<'_>) -> Result<Option<CredentialMark>, RowError> {
    let name = columns.optional("credential")?;
    match (name, columns.optional_number("credential_version")?) {
        (None, None) => Ok(None),
        (Some(name), Some(version)) => Ok(Some(CredentialMark {
            name,
            version: Version(version),
        })),
        _ => Err(columns.unreadable()),
    }
}

pub(super) fn secret_row(row: &Row) -> Result<SecretRow, RowError> {
    let columns = Columns::new(row, "token");
    Ok(SecretRow {
        id: columns.parsed("id")?,
        data_key: columns.parsed("data_key")?,
        sealed: sealed(&columns, "ciphertext")?,
    })
}

pub(super) fn lease_row(row: &Row) -> Result<LeaseRow, RowError> {
    let columns = Columns::new(row, "lease");
    let version = Version(columns.number("version")?);
    let of = Leased::Slot(columns.parsed("slot")?, version);
    lease(&columns, of)
}

pub(super) fn tool_lease_row(row: &Row) -> Result<LeaseRow, RowError> {
    let columns = Columns::new(row, "lease");
    let (name, version) = (
        columns.optional("credential")?,
        columns.optional_number("version")?,
    );
    let of = match (name, version) {
        (None, None) => Leased::Nothing,
        (Some(name), Some(version)) => {
            let version = Version(version);
            Leased::Credential(CredentialMark { name, version })
        }
        _ => return Err(columns.unreadable()),
    };
    lease(&columns, of)
}

pub(super) fn single_call_row(row: &Row) -> Result<SingleCall, RowError> {
    let columns = Columns::new(row, "single call");
    Ok(SingleCall {
        lease: columns.parsed("lease_id")?,
        request: columns.optional("request")?,
    })
}

fn lease(columns: &Columns<'_>, of: Leased) -> Result<LeaseRow, RowError> {
    let activity = Activity::new(columns.raw("activity_id")?, columns.number("attempt")?);
    let released_at: Option<u64> = columns.optional_number("released_at")?;
    Ok(LeaseRow {
        id: columns.parsed("id")?,
        start: columns.parsed("start_id")?,
        of,
        tool: columns.parsed("tool")?,
        workflow_id: columns.parsed("workflow_id")?,
        run_id: columns.parsed("run_id")?,
        activity: activity.ok_or_else(|| columns.unreadable())?,
        agent: columns.parsed("agent")?,
        opened_at: UnixSeconds(columns.number("opened_at")?),
        expires_at: UnixSeconds(columns.number("expires_at")?),
        released_at: released_at.map(UnixSeconds),
    })
}
