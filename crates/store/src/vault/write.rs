//! From rows to statements.

use super::text;
use crate::{
    row::{integer, json},
    sql::{Statement, statement},
};
use xylem_vault::{
    EpochRow, ExcludedBy, KeyRow, LeaseRow, Leased, SecretRow, SlotRow, TreeRow, TreeState,
    VersionRow,
};

pub(super) fn epoch(row: &EpochRow) -> Statement {
    statement(
        "INSERT INTO epoch (\"only\", epoch, state, mac) VALUES (1, $1, $2, $3)
         ON CONFLICT (\"only\") DO UPDATE SET epoch = excluded.epoch, state = excluded.state,
            mac = excluded.mac",
    )
    .bind(row.epoch.0)
    .bind(row.state.code())
    .bind(row.mac.0.to_vec())
}

pub(super) fn key(row: &KeyRow) -> Statement {
    statement(
        "INSERT INTO keys (id, purpose, generation, wrapped_by, nonce, wrapped)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (id) DO UPDATE SET purpose = excluded.purpose,
            generation = excluded.generation, wrapped_by = excluded.wrapped_by,
            nonce = excluded.nonce, wrapped = excluded.wrapped",
    )
    .bind(text(&row.id))
    .bind(row.purpose.code())
    .bind(row.generation)
    .bind(text(&row.wrapped_by))
    .bind(row.wrapped.nonce.to_vec())
    .bind(row.wrapped.ciphertext.clone())
}

/// The other key where the one that was read still lies.
pub(super) fn replaced_key(read: &KeyRow, with: &KeyRow) -> Statement {
    statement(
        "UPDATE keys SET wrapped_by = $1, nonce = $2, wrapped = $3
         WHERE id = $4 AND purpose = $5 AND wrapped_by = $6 AND nonce = $7 AND wrapped = $8",
    )
    .bind(text(&with.wrapped_by))
    .bind(with.wrapped.nonce.to_vec())
    .bind(with.wrapped.ciphertext.clone())
    .bind(text(&read.id))
    .bind(read.purpose.code())
    .bind(text(&read.wrapped_by))
    .bind(read.wrapped.nonce.to_vec())
    .bind(read.wrapped.ciphertext.clone())
}

pub(super) fn tree(row: &TreeRow) -> Statement {
    let tree = &row.tree;
    let (state, stopped_at) = match &tree.state {
        TreeState::Starting => ("starting", None),
        TreeState::Bound { .. } => ("bound", None),
        TreeState::Stopped { at, terminate, .. } => {
            let state = if *terminate { "terminated" } else { "stopped" };
            (state, Some(integer(at.0)))
        }
    };
    statement(
        "INSERT INTO trees (start_id, namespace, workflow_id, state, first_run_id, stopped_at,
            intake, tools, owner, opened_at, request, data_key, mac, opened_as)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
            (SELECT COALESCE(MAX(opened_as), 0) + 1 FROM trees))
         ON CONFLICT (start_id) DO UPDATE SET state = excluded.state,
            first_run_id = excluded.first_run_id, stopped_at = excluded.stopped_at,
            intake = excluded.intake, tools = excluded.tools, owner = excluded.owner, data_key = excluded.data_key,
            mac = excluded.mac",
    )
    .bind(text(&tree.start))
    .bind(text(&tree.namespace))
    .bind(text(&tree.workflow_id))
    .bind(state)
    .bind(tree.state.first_run_id().map(text))
    .bind(stopped_at)
    .bind(i64::from(tree.intake))
    .bind(json(&tree.tools))
    .bind(text(&tree.owner))
    .bind(integer(tree.opened_at.0))
    .bind(text(&tree.request))
    .bind(row.data_key.as_ref().map(text))
    .bind(row.mac.0.to_vec())
}

pub(super) fn slot(row: &SlotRow) -> Statement {
    let exclusions: Vec<_> = row
        .exclusions
        .iter()
        .map(|exclusion| {
            let by = match &exclusion.by {
                ExcludedBy::Operator => None,
                ExcludedBy::Node(path) => Some(path),
            };
            (&exclusion.workflow_id, exclusion.subtree, by)
        })
        .collect();
    statement(
        "INSERT INTO slots (start_id, slot, last, exclusions, mac) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (start_id, slot) DO UPDATE SET last = excluded.last,
            exclusions = excluded.exclusions, mac = excluded.mac",
    )
    .bind(text(&row.start))
    .bind(text(&row.slot))
    .bind(row.last)
    .bind(json(&exclusions))
    .bind(row.mac.0.to_vec())
}

pub(super) fn version(row: &VersionRow) -> Statement {
    let info = &row.info;
    statement(
        "INSERT INTO versions (start_id, slot, version, serial, epoch, state, state_since, exposed,
            fingerprint, audiences, issued_at, expires_at, issued_grant, issuer, depositor,
            deposited_at, request, secret_id, credential, credential_version, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19, $20, $21)
         ON CONFLICT (start_id, slot, version) DO UPDATE SET serial = excluded.serial,
            epoch = excluded.epoch, state = excluded.state, state_since = excluded.state_since,
            exposed = excluded.exposed, issued_at = excluded.issued_at,
            expires_at = excluded.expires_at, issued_grant = excluded.issued_grant,
            issuer = excluded.issuer, secret_id = excluded.secret_id, mac = excluded.mac",
    )
    .bind(text(&info.start))
    .bind(text(&info.slot))
    .bind(info.version.0)
    .bind(info.serial.0)
    .bind(info.epoch.0)
    .bind(info.state.code())
    .bind(integer(info.state_since.0))
    .bind(i64::from(info.exposed))
    .bind(text(&info.fingerprint))
    .bind(json(&info.audiences))
    .bind(integer(info.issued_at.0))
    .bind(integer(info.expires_at.0))
    .bind(info.grant.clone())
    .bind(info.issuer.as_ref().map(text))
    .bind(text(&info.depositor))
    .bind(integer(info.deposited_at.0))
    .bind(text(&info.request))
    .bind(row.secret.as_ref().map(text))
    .bind(info.credential.as_ref().map(|mark| text(&mark.name)))
    .bind(
        info.credential
            .as_ref()
            .map(|mark| i64::from(mark.version.0)),
    )
    .bind(row.mac.0.to_vec())
}

pub(super) fn secret(row: &SecretRow) -> Statement {
    statement("INSERT INTO secrets (id, data_key, nonce, ciphertext) VALUES ($1, $2, $3, $4)")
        .bind(text(&row.id))
        .bind(text(&row.data_key))
        .bind(row.sealed.nonce.to_vec())
        .bind(row.sealed.ciphertext.clone())
}

pub(super) fn lease(row: &LeaseRow) -> Statement {
    match &row.of {
        Leased::Slot(slot, version) => statement(
            "INSERT INTO leases (slot, version, id, start_id, tool, workflow_id, run_id,
                activity_id, attempt, agent, opened_at, expires_at, released_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             ON CONFLICT (id) DO UPDATE SET released_at = excluded.released_at",
        )
        .bind(text(slot))
        .bind(version.0),
        Leased::Credential(mark) => tool_lease()
            .bind(Some(text(&mark.name)))
            .bind(Some(i64::from(mark.version.0))),
        Leased::Nothing => tool_lease().bind(None::<String>).bind(None::<i64>),
    }
    .bind(text(&row.id))
    .bind(text(&row.start))
    .bind(text(&row.tool))
    .bind(text(&row.workflow_id))
    .bind(text(&row.run_id))
    .bind(text(row.activity.id()))
    .bind(row.activity.attempt())
    .bind(text(&row.agent))
    .bind(integer(row.opened_at.0))
    .bind(integer(row.expires_at.0))
    .bind(row.released_at.map(|at| integer(at.0)))
}

fn tool_lease() -> Statement {
    statement(
        "INSERT INTO tool_leases (credential, version, id, start_id, tool, workflow_id, run_id,
            activity_id, attempt, agent, opened_at, expires_at, released_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (id) DO UPDATE SET released_at = excluded.released_at",
    )
}
