//! What the seals cover. A row that was edited, or moved to another place, fails its check.

use crate::{
    EpochRow, ExcludedBy, Exclusion, SlotRow, StartId, Tree, TreeRow, TreeState, VaultError,
    VersionInfo, VersionRow,
    derived::Derived,
    storage::{EpochState, KeyRow, Purpose},
    view::SecretId,
};
use xylem_ids::{Epoch, KeyId, Slot};
use xylem_seal::{Fields, Mac};

impl Derived {
    pub(crate) fn seal_epoch(&self, epoch: Epoch, state: EpochState) -> EpochRow {
        let fields = Fields::new("epoch").number(epoch.0);
        // A row from before there were states has the seal of the first.
        let fields = match state {
            EpochState::Held => fields.text(state.code()),
            EpochState::Current | EpochState::Restored => fields,
        };
        let mac = self.mac(&fields);
        EpochRow { epoch, state, mac }
    }

    /// Whoever loads a backup cannot seal: its row has the seal that it had when it was copied.
    pub(crate) fn check_epoch(&self, row: EpochRow) -> Result<Epoch, VaultError> {
        let sealed_as = |state| self.seal_epoch(row.epoch, state).mac;
        if row.state == EpochState::Restored && sealed_as(EpochState::Held) == row.mac {
            return Ok(row.epoch);
        }
        intact(sealed_as(row.state), row.mac, "epoch", row.epoch)?;
        Ok(row.epoch)
    }

    pub(crate) fn seal_tree(&self, tree: Tree, data_key: Option<KeyId>) -> TreeRow {
        let mac = self.mac(&tree_fields(&tree, data_key.as_ref()));
        TreeRow {
            tree,
            data_key,
            mac,
        }
    }

    pub(crate) fn check_tree(&self, row: TreeRow) -> Result<TreeRow, VaultError> {
        let expected = self.mac(&tree_fields(&row.tree, row.data_key.as_ref()));
        intact(expected, row.mac, "tree", &row.tree.start)?;
        Ok(row)
    }

    pub(crate) fn seal_slot(
        &self,
        start: StartId,
        slot: Slot,
        last: u32,
        exclusions: Vec<Exclusion>,
    ) -> SlotRow {
        let mac = self.mac(&slot_fields(&start, &slot, last, &exclusions));
        SlotRow {
            start,
            slot,
            last,
            exclusions,
            mac,
        }
    }

    pub(crate) fn check_slot(&self, row: SlotRow) -> Result<SlotRow, VaultError> {
        let expected = self.mac(&slot_fields(
            &row.start,
            &row.slot,
            row.last,
            &row.exclusions,
        ));
        let which = format_args!("{} of tree {}", row.slot, row.start).to_string();
        intact(expected, row.mac, "slot", which)?;
        Ok(row)
    }

    pub(crate) fn seal_version(&self, info: VersionInfo, secret: Option<SecretId>) -> VersionRow {
        let mac = self.mac(&version_fields(&info, secret.as_ref()));
        VersionRow { info, secret, mac }
    }

    pub(crate) fn check_version(&self, row: VersionRow) -> Result<VersionRow, VaultError> {
        let expected = self.mac(&version_fields(&row.info, row.secret.as_ref()));
        intact(expected, row.mac, "version", version_place(&row.info))?;
        Ok(row)
    }
}

/// How an error names a version.
pub(crate) fn version_place(info: &VersionInfo) -> String {
    format!("{}@{} of tree {}", info.slot, info.version, info.start)
}

/// What a token's ciphertext is bound to. Before the first run is known the start stands in for it;
/// binding encrypts anew.
pub(crate) fn token_place(tree: &Tree, info: &VersionInfo, data_key: &KeyId) -> Fields {
    Fields::new("xylem token")
        .text(tree.namespace.as_str())
        .text(tree.workflow_id.as_str())
        .optional(tree.state.first_run_id().map(|run| run.as_str()))
        .text(tree.start.as_str())
        .text(info.slot.as_str())
        .number(info.version.0)
        .text(data_key.as_str())
}

/// What a wrapped key is bound to: its purpose, so that a retired key does not come back, its
/// generation, and the tree it belongs to, if it does.
pub(crate) fn key_place(
    purpose: Purpose,
    id: &KeyId,
    generation: u32,
    start: Option<&StartId>,
) -> Fields {
    place_of_key(purpose, id, generation).optional(start.map(StartId::as_str))
}

/// What every wrapped key is bound to.
pub(crate) fn place_of_key(purpose: Purpose, id: &KeyId, generation: u32) -> Fields {
    Fields::new("xylem key")
        .text(purpose.code())
        .text(id.as_str())
        .number(generation)
}

pub(crate) fn tampered_key(row: &KeyRow) -> VaultError {
    VaultError::tampered("key", &row.id)
}

pub(crate) fn intact(
    expected: Mac,
    found: Mac,
    what: &'static str,
    which: impl std::fmt::Display,
) -> Result<(), VaultError> {
    if expected == found {
        Ok(())
    } else {
        Err(VaultError::tampered(what, which))
    }
}

fn tree_fields(tree: &Tree, data_key: Option<&KeyId>) -> Fields {
    let (state, at) = match &tree.state {
        TreeState::Starting => ("starting", 0),
        TreeState::Bound { .. } => ("bound", 0),
        TreeState::Stopped { at, terminate, .. } if *terminate => ("terminated", at.0),
        TreeState::Stopped { at, .. } => ("stopped", at.0),
    };
    Fields::new("tree")
        .text(tree.start.as_str())
        .text(tree.namespace.as_str())
        .text(tree.workflow_id.as_str())
        .text(state)
        .number(at)
        .optional(tree.state.first_run_id().map(|run| run.as_str()))
        .number(u32::from(tree.intake))
        .list(tree.tools.iter().map(|tool| tool.as_str()))
        .text(tree.owner.as_str())
        .number(tree.opened_at.0)
        .text(tree.request.as_str())
        .optional(data_key.map(KeyId::as_str))
}

fn slot_fields(start: &StartId, slot: &Slot, last: u32, exclusions: &[Exclusion]) -> Fields {
    let fields = Fields::new("slot")
        .text(start.as_str())
        .text(slot.as_str())
        .number(last)
        .number(exclusions.len() as u64);
    exclusions.iter().fold(fields, |fields, exclusion| {
        let fields = fields
            .text(exclusion.workflow_id.as_str())
            .number(u32::from(exclusion.subtree));
        match &exclusion.by {
            ExcludedBy::Operator => fields.text("operator"),
            ExcludedBy::Node(path) => {
                let path = path.iter().map(|above| above.as_str());
                fields.text("node").list(path)
            }
        }
    })
}

fn version_fields(info: &VersionInfo, secret: Option<&SecretId>) -> Fields {
    let audiences: Vec<String> = info.audiences.iter().map(ToString::to_string).collect();
    let label = match info.credential {
        None => "version",
        Some(_) => "version of credential",
    };
    let fields = Fields::new(label)
        .text(info.start.as_str())
        .text(info.slot.as_str())
        .number(info.version.0)
        .number(info.serial.0)
        .number(info.epoch.0)
        .text(info.state.code())
        .number(info.state_since.0)
        .number(u32::from(info.exposed))
        .text(info.fingerprint.as_str())
        .list(audiences.iter().map(String::as_str))
        .number(info.issued_at.0)
        .number(info.expires_at.0)
        .optional(info.grant.as_deref())
        .optional(info.issuer.as_ref().map(KeyId::as_str))
        .text(info.depositor.as_str())
        .number(info.deposited_at.0)
        .text(info.request.as_str())
        .optional(secret.map(SecretId::as_str));
    match &info.credential {
        None => fields,
        Some(mark) => fields.text(mark.name.as_str()).number(mark.version.0),
    }
}
