//! What the registry knows of a tool beside its definitions: who proposed which version, which one
//! was approved, and whether it may be called.
//!
//! All of it is pure: a change takes a record and answers with the next one, or says why not.

use crate::{DefinitionHash, Invalid, ToolDefinition, tool::check_base_url};
use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};
use xylem_ids::{AgentId, Namespace, Slot, ToolName};
use xylem_policy::ToolFacts;
use xylem_seal::{CryptoError, Fields, Mac, MacKey, OpaqueKey, SubKey};

/// A version of a tool's definition, as somebody published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Counted from 1, never reused.
    pub version: u32,
    /// What was published.
    pub hash: DefinitionHash,
    /// The slot whose token it uses, if it is one of the tree's.
    pub slot: Option<Slot>,
    /// Who published it; nobody knows for tools from before publishers were recorded.
    pub by: Option<AgentId>,
    /// When.
    pub at: SystemTime,
}

/// That a version may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// What was approved: the definition with this hash, and none other.
    pub of: Published,
    /// Who approved it.
    pub by: AgentId,
    /// When.
    pub at: SystemTime,
    /// Whether the publisher did it alone, in an installation that declares a single operator.
    pub own: bool,
}

/// That nothing new may use a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// Who retired it.
    pub by: AgentId,
    /// When.
    pub at: SystemTime,
    /// Whether trees that use it already may not call it either.
    pub stops_calls: bool,
}

/// A record as it lies in the storage. Only [`crate::ToolSeal`] says whether it is what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// The tool.
    pub name: ToolName,
    /// Counts the changes of the record.
    pub revision: u64,
    /// Who may change it, beside administrators; nobody else may where absent.
    pub owner: Option<AgentId>,
    /// What was published last and not taken back.
    pub current: Published,
    /// The highest version that was ever published.
    pub latest: u32,
    /// Whether the approved version stays in force while another one waits for approval.
    pub staged: bool,
    /// Whether the current version was rejected.
    pub rejected: bool,
    /// The approval in force.
    pub approval: Option<Approval>,
    /// Whether it is retired.
    pub retired: Option<Retirement>,
    /// Whether only its name is left, which nobody else may take.
    pub deleted: bool,
    /// When it was first registered.
    pub created_at: SystemTime,
    /// The seal over all of that; absent in records from before they were sealed.
    pub seal: Option<Mac>,
}

/// What becomes of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ToolState {
    /// It waits for its first approval. It is not called.
    Proposed,
    /// Its only version was rejected. It is not called.
    Rejected,
    /// It is called.
    Approved,
    /// It was changed after its approval. It is not called until it is approved again.
    Changed,
    /// The approved version is called; a later one waits for approval.
    Staged,
    /// It is called by trees that use it already, if at all.
    Retired,
}

impl ToolState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Proposed,
        Self::Rejected,
        Self::Approved,
        Self::Changed,
        Self::Staged,
        Self::Retired,
    ];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Rejected => "rejected",
            Self::Approved => "approved",
            Self::Changed => "changed",
            Self::Staged => "staged",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for ToolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why a tool is not called. The codes stand in audit entries and error details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCallable {
    /// Nobody approved it yet.
    #[error("the tool is not approved: somebody other than its publisher has to approve it")]
    NotApproved,
    /// Its definition is not the approved one.
    #[error("the tool was changed after its approval: approve it again, or revert the change")]
    Changed,
    /// It was retired, and calls are stopped.
    #[error("the tool is retired: use another one")]
    Retired,
}

impl NotCallable {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotApproved => "tool_not_approved",
            Self::Changed => "tool_changed",
            Self::Retired => "tool_retired",
        }
    }
}

/// Proof that a definition was approved and may be called. Only [`ToolRecord::callable`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callable {
    version: u32,
    hash: DefinitionHash,
    slot: Option<Slot>,
}

impl Callable {
    /// The version that was approved.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The hash of the definition that was approved.
    #[must_use]
    pub fn hash(&self) -> &DefinitionHash {
        &self.hash
    }

    /// The slot whose token it uses, if it is one of the tree's.
    #[must_use]
    pub fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }
}

/// Why a tool is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// Only who owns it, administrators, and whom policies allow it, change a tool.
    #[error(
        "the tool belongs to another agent: ask its owner or an administrator, or for a policy that allows \
         you the action admin on it"
    )]
    NotOwner,
    /// Somebody else changed it.
    #[error("the tool was changed meanwhile: look at it again")]
    OtherVersion,
    /// The version or the hash is not what waits for a decision.
    #[error("version and hash are not those that wait for approval: look at the tool again")]
    NotProposed,
    /// Its publisher may not approve it.
    #[error(
        "nobody approves their own tool, and a service or bot counts as whoever registered it: another person has \
         to, or the installation has to declare a single operator"
    )]
    OwnProposal,
    /// There is no earlier approval to go back to.
    #[error("the tool was never approved: there is nothing to go back to")]
    NothingApproved,
    /// It is retired.
    #[error("the tool is retired: register another one")]
    Retired,
    /// It is not retired yet.
    #[error("the tool is in force: retire it first")]
    NotRetired,
}

impl Unchanged {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotOwner => "tool_of_other_owner",
            Self::OtherVersion => "tool_changed_meanwhile",
            Self::NotProposed => "tool_not_proposed",
            Self::OwnProposal => "own_proposal",
            Self::NothingApproved => "tool_never_approved",
            Self::Retired => "tool_retired",
            Self::NotRetired => "tool_not_retired",
        }
    }
}

/// Who changes a tool.
#[derive(Debug, Clone)]
pub struct Editor {
    /// Who.
    pub agent: AgentId,
    /// Whether tools of others too.
    pub of_all: bool,
}

/// What else counts where somebody approves a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Approver {
    /// Whether it was published by somebody whose work counts as the approver's own.
    pub published: bool,
    /// Whether one person does everything here.
    pub single_operator: bool,
}

/// What is known of a tool and was not edited: its seal was checked, or a change just made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRecord(RecordRow);

impl ToolRecord {
    /// What it holds.
    #[must_use]
    pub fn row(&self) -> &RecordRow {
        &self.0
    }

    /// A new tool, waiting for approval.
    #[must_use]
    pub fn propose(
        name: ToolName,
        hash: DefinitionHash,
        slot: Option<Slot>,
        by: AgentId,
        at: SystemTime,
    ) -> Self {
        Self(RecordRow {
            name,
            revision: 1,
            owner: Some(by.clone()),
            current: Published {
                version: 1,
                hash,
                slot,
                by: Some(by),
                at,
            },
            latest: 1,
            staged: false,
            rejected: false,
            approval: None,
            retired: None,
            deleted: false,
            created_at: at,
            seal: None,
        })
    }

    /// The next version. Calls stop until it is approved; with `staged`, the approved one stays in
    /// force until then.
    ///
    /// # Errors
    /// The editor may not, the tool is retired, or it is at another version than expected.
    pub fn update(
        &self,
        hash: DefinitionHash,
        slot: Option<Slot>,
        editor: &Editor,
        expected: Option<u32>,
        staged: bool,
        at: SystemTime,
    ) -> Result<Self, Unchanged> {
        self.check_editor(editor)?;
        if self.0.retired.is_some() {
            return Err(Unchanged::Retired);
        }
        if expected.is_some_and(|version| version != self.0.current.version) {
            return Err(Unchanged::OtherVersion);
        }
        // A number that is used up is no reason to reuse one.
        let version = self
            .0
            .latest
            .checked_add(1)
            .ok_or(Unchanged::OtherVersion)?;
        Ok(self.changed(|row| {
            row.latest = version;
            row.current = Published {
                version,
                hash,
                slot,
                by: Some(editor.agent.clone()),
                at,
            };
            row.staged = staged;
            row.rejected = false;
        }))
    }

    /// Pins the hash of the current version, as the approver read it. To approve again what is
    /// approved changes nothing.
    ///
    /// # Errors
    /// That is not what waits for approval, or it is the approver's own and that one is not the only
    /// operator.
    pub fn approve(
        &self,
        version: u32,
        hash: &DefinitionHash,
        by: AgentId,
        approver: Approver,
        at: SystemTime,
    ) -> Result<Self, Unchanged> {
        if self.0.retired.is_some() {
            return Err(Unchanged::Retired);
        }
        let current = &self.0.current;
        if current.version != version || current.hash != *hash {
            return Err(Unchanged::NotProposed);
        }
        if self.state() == ToolState::Approved {
            return Ok(self.clone());
        }
        let own = approver.published || current.by.as_ref() == Some(&by);
        if own && !approver.single_operator {
            return Err(Unchanged::OwnProposal);
        }
        let approval = Approval {
            of: current.clone(),
            by,
            at,
            own,
        };
        Ok(self.changed(|row| {
            row.approval = Some(approval);
            row.staged = false;
            row.rejected = false;
        }))
    }

    /// Turns down what waits for approval. What was approved before is in force again.
    ///
    /// # Errors
    /// That version does not wait for approval.
    pub fn reject(&self, version: u32) -> Result<Self, Unchanged> {
        let waits = matches!(
            self.state(),
            ToolState::Proposed | ToolState::Changed | ToolState::Staged
        );
        if !waits || self.0.current.version != version {
            return Err(Unchanged::NotProposed);
        }
        Ok(match &self.0.approval {
            Some(approval) => self.back_to(approval),
            None => self.changed(|row| row.rejected = true),
        })
    }

    /// Takes back what waits for approval. It needs none: what is in force then was approved.
    ///
    /// # Errors
    /// The editor may not, or there is nothing to go back to.
    pub fn revert(&self, editor: &Editor) -> Result<Self, Unchanged> {
        self.check_editor(editor)?;
        if self.0.retired.is_some() {
            return Err(Unchanged::Retired);
        }
        let approval = self.0.approval.as_ref();
        Ok(self.back_to(approval.ok_or(Unchanged::NothingApproved)?))
    }

    /// Keeps everything new from using the tool; with `stops_calls`, what uses it already too.
    ///
    /// # Errors
    /// The editor may not.
    pub fn retire(
        &self,
        editor: &Editor,
        stops_calls: bool,
        at: SystemTime,
    ) -> Result<Self, Unchanged> {
        self.check_editor(editor)?;
        let before = self.0.retired.as_ref();
        let stops_calls = stops_calls || before.is_some_and(|retired| retired.stops_calls);
        Ok(self.changed(|row| {
            row.retired = Some(Retirement {
                by: editor.agent.clone(),
                at,
                stops_calls,
            });
        }))
    }

    /// Leaves nothing but the name, which nobody takes: policies may still name it.
    ///
    /// # Errors
    /// The editor may not, or the tool is not retired.
    pub fn delete(&self, editor: &Editor) -> Result<Self, Unchanged> {
        self.check_editor(editor)?;
        if self.0.retired.is_none() {
            return Err(Unchanged::NotRetired);
        }
        Ok(self.changed(|row| row.deleted = true))
    }

    /// What becomes of calls.
    #[must_use]
    pub fn state(&self) -> ToolState {
        if self.0.retired.is_some() {
            return ToolState::Retired;
        }
        match &self.0.approval {
            None if self.0.rejected => ToolState::Rejected,
            None => ToolState::Proposed,
            Some(approval) if approval.of.hash == self.0.current.hash => ToolState::Approved,
            Some(_) if self.0.staged => ToolState::Staged,
            Some(_) => ToolState::Changed,
        }
    }

    /// The definition that may be called.
    ///
    /// # Errors
    /// Says why none may.
    pub fn callable(&self) -> Result<Callable, NotCallable> {
        let stopped = self.0.retired.as_ref().is_some_and(|it| it.stops_calls);
        if stopped || self.0.deleted {
            return Err(NotCallable::Retired);
        }
        let approval = self.0.approval.as_ref().ok_or(NotCallable::NotApproved)?;
        if approval.of.hash != self.0.current.hash && !self.0.staged {
            return Err(NotCallable::Changed);
        }
        Ok(Callable {
            version: approval.of.version,
            hash: approval.of.hash.clone(),
            slot: approval.of.slot.clone(),
        })
    }

    /// What policies can say about the tool with this definition, one of its own.
    ///
    /// # Errors
    /// The definition breaks a rule.
    pub fn facts(&self, definition: &ToolDefinition) -> Result<ToolFacts, Invalid> {
        Ok(ToolFacts {
            name: self.0.name.clone(),
            tags: definition.tags.clone(),
            origin: check_base_url(&definition.base_url)?.to_string(),
            method: definition.method.as_str().to_owned(),
            owner: self.0.owner.clone(),
        })
    }

    /// Whether a tree may be allowed to use it from now on.
    ///
    /// # Errors
    /// Says why not.
    pub fn usable(&self) -> Result<Callable, NotCallable> {
        if self.0.retired.is_some() {
            return Err(NotCallable::Retired);
        }
        self.callable()
    }

    fn check_editor(&self, editor: &Editor) -> Result<(), Unchanged> {
        if editor.of_all || self.0.owner.as_ref() == Some(&editor.agent) {
            Ok(())
        } else {
            Err(Unchanged::NotOwner)
        }
    }

    fn back_to(&self, approval: &Approval) -> Self {
        self.changed(|row| {
            row.current = approval.of.clone();
            row.staged = false;
        })
    }

    fn changed(&self, change: impl FnOnce(&mut RecordRow)) -> Self {
        let mut row = self.0.clone();
        row.revision = row.revision.saturating_add(1);
        row.seal = None;
        change(&mut row);
        Self(row)
    }
}

/// Seals records and names pages, and says whether one is what was written.
#[derive(Debug)]
pub struct ToolSeal {
    records: MacKey,
    pub(crate) pages: OpaqueKey,
}

/// A record is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is not what was written")]
pub struct Edited;

impl ToolSeal {
    /// The seal under the registry's key.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn new(registry: &SubKey) -> Result<Self, CryptoError> {
        Ok(Self {
            records: registry.mac("tool record")?,
            pages: OpaqueKey::new(&registry.derive("tool page")?)?,
        })
    }

    /// A record as it is stored.
    #[must_use]
    pub fn seal(&self, namespace: &Namespace, record: &ToolRecord) -> RecordRow {
        let mut row = record.0.clone();
        row.seal = Some(self.records.seal(&fields(namespace, &row)));
        row
    }

    /// The record that was stored.
    ///
    /// # Errors
    /// It was edited, or belongs to another namespace.
    pub fn open(&self, namespace: &Namespace, row: RecordRow) -> Result<ToolRecord, Edited> {
        let intact = match row.seal {
            Some(seal) => seal == self.records.seal(&fields(namespace, &row)),
            // From before there were seals: then it says nothing that anybody relies on.
            None => {
                row.approval.is_none()
                    && row.retired.is_none()
                    && !row.deleted
                    && row.owner.is_none()
            }
        };
        intact.then_some(ToolRecord(row)).ok_or(Edited)
    }
}

fn fields(namespace: &Namespace, row: &RecordRow) -> Fields {
    let mut fields = Fields::new("tool record")
        .text(namespace.as_str())
        .text(row.name.as_str())
        .number(row.revision)
        .optional(row.owner.as_ref().map(AgentId::as_str))
        .number(row.latest)
        .number(u32::from(row.staged))
        .number(u32::from(row.rejected))
        .number(u32::from(row.deleted))
        .number(seconds(row.created_at));
    fields = published(fields, &row.current);
    fields = match &row.approval {
        None => fields.number(0_u32),
        Some(approval) => published(fields.number(1_u32), &approval.of)
            .text(approval.by.as_str())
            .number(seconds(approval.at))
            .number(u32::from(approval.own)),
    };
    match &row.retired {
        None => fields.number(0_u32),
        Some(retired) => fields
            .number(1_u32)
            .text(retired.by.as_str())
            .number(seconds(retired.at))
            .number(u32::from(retired.stops_calls)),
    }
}

fn published(fields: Fields, of: &Published) -> Fields {
    fields
        .number(of.version)
        .text(of.hash.as_str())
        .text(of.slot.as_ref().map_or("", Slot::as_str))
        .optional(of.by.as_ref().map(AgentId::as_str))
        .number(seconds(of.at))
}

/// Times are stored in whole seconds.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn agent(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    fn owner() -> Editor {
        Editor {
            agent: agent("owner"),
            of_all: false,
        }
    }

    fn hash(of: u32) -> DefinitionHash {
        DefinitionHash::parse(&format!("{of:064x}")).unwrap()
    }

    fn slot() -> Option<Slot> {
        Some(Slot::default_slot())
    }

    fn proposed() -> ToolRecord {
        let name = "acme.deploy".parse().unwrap();
        ToolRecord::propose(name, hash(1), slot(), agent("owner"), UNIX_EPOCH)
    }

    fn update(record: &ToolRecord, of: u32, staged: bool) -> ToolRecord {
        let next = record.update(hash(of), slot(), &owner(), None, staged, UNIX_EPOCH);
        next.unwrap()
    }

    fn approve(record: &ToolRecord) -> ToolRecord {
        let Published { version, hash, .. } = record.row().current.clone();
        let approved = record.approve(
            version,
            &hash,
            agent("other"),
            Approver::default(),
            UNIX_EPOCH,
        );
        approved.unwrap()
    }

    fn called(record: &ToolRecord) -> Result<u32, NotCallable> {
        record.callable().map(|it| it.version())
    }

    #[test]
    fn the_state_is_the_table() {
        let new = proposed();
        let approved = approve(&new);
        let changed = update(&approved, 2, false);
        let staged = update(&approved, 2, true);
        let retired =
            |record: &ToolRecord, stops| record.retire(&owner(), stops, UNIX_EPOCH).unwrap();
        for (record, state, calls, version) in [
            (
                new.clone(),
                ToolState::Proposed,
                Err(NotCallable::NotApproved),
                1,
            ),
            (
                new.reject(1).unwrap(),
                ToolState::Rejected,
                Err(NotCallable::NotApproved),
                1,
            ),
            (
                update(&new.reject(1).unwrap(), 2, true),
                ToolState::Proposed,
                Err(NotCallable::NotApproved),
                2,
            ),
            (approved.clone(), ToolState::Approved, Ok(1), 1),
            (
                changed.clone(),
                ToolState::Changed,
                Err(NotCallable::Changed),
                2,
            ),
            (changed.reject(2).unwrap(), ToolState::Approved, Ok(1), 1),
            (
                changed.revert(&owner()).unwrap(),
                ToolState::Approved,
                Ok(1),
                1,
            ),
            (approve(&changed), ToolState::Approved, Ok(2), 2),
            (update(&changed, 1, false), ToolState::Approved, Ok(1), 3),
            (staged.clone(), ToolState::Staged, Ok(1), 2),
            (approve(&staged), ToolState::Approved, Ok(2), 2),
            (staged.reject(2).unwrap(), ToolState::Approved, Ok(1), 1),
            (
                update(&staged, 3, false),
                ToolState::Changed,
                Err(NotCallable::Changed),
                3,
            ),
            (retired(&approved, false), ToolState::Retired, Ok(1), 1),
            (
                retired(&new, false),
                ToolState::Retired,
                Err(NotCallable::NotApproved),
                1,
            ),
            (
                retired(&approved, true),
                ToolState::Retired,
                Err(NotCallable::Retired),
                1,
            ),
            (
                retired(&retired(&approved, true), false),
                ToolState::Retired,
                Err(NotCallable::Retired),
                1,
            ),
        ] {
            assert_eq!(record.state(), state, "{record:?}");
            assert_eq!(called(&record), calls, "{record:?}");
            assert_eq!(record.row().current.version, version, "{record:?}");
        }
    }

    /// Every order of up to five changes: nothing is called that was not approved, by somebody else,
    /// and no number is given twice.
    #[test]
    fn no_order_of_changes_calls_what_was_not_approved() {
        let mut seen = BTreeSet::new();
        walk(&proposed(), &BTreeSet::new(), 5, &mut seen);
        assert_eq!(seen, BTreeSet::from(ToolState::ALL));
    }

    fn walk(
        record: &ToolRecord,
        approved: &BTreeSet<DefinitionHash>,
        steps: u32,
        seen: &mut BTreeSet<ToolState>,
    ) {
        seen.insert(record.state());
        if let Ok(callable) = record.callable() {
            assert!(approved.contains(callable.hash()), "{record:?}");
            let approval = record.row().approval.as_ref().unwrap();
            assert_ne!(Some(&approval.by), approval.of.by.as_ref());
        }
        assert_eq!(
            record.usable().is_ok(),
            record.callable().is_ok() && record.state() != ToolState::Retired
        );
        if steps == 0 {
            return;
        }
        let Published {
            version,
            hash: current,
            ..
        } = record.row().current.clone();
        let change =
            |of, staged| record.update(hash(of), slot(), &owner(), None, staged, UNIX_EPOCH);
        for next in [
            change(1, false),
            change(2, false),
            change(2, true),
            record.approve(
                version,
                &current,
                agent("owner"),
                Approver::default(),
                UNIX_EPOCH,
            ),
            record.reject(version),
            record.revert(&owner()),
            record.retire(&owner(), false, UNIX_EPOCH),
            record.retire(&owner(), true, UNIX_EPOCH),
            record.delete(&owner()),
        ]
        .into_iter()
        .flatten()
        {
            assert!(next.row().latest >= record.row().latest);
            assert!(next.row().current.version <= next.row().latest);
            walk(&next, approved, steps - 1, seen);
        }
        if let Ok(next) = record.approve(
            version,
            &current,
            agent("other"),
            Approver::default(),
            UNIX_EPOCH,
        ) {
            let mut approved = approved.clone();
            approved.insert(current);
            walk(&next, &approved, steps - 1, seen);
        }
    }

    #[test]
    fn who_may_not_changes_nothing() {
        let stranger = Editor {
            agent: agent("stranger"),
            of_all: false,
        };
        let approved = approve(&proposed());
        let update = |editor: &Editor, expected| {
            approved.update(hash(2), slot(), editor, expected, false, UNIX_EPOCH)
        };
        assert_eq!(update(&stranger, None), Err(Unchanged::NotOwner));
        assert_eq!(update(&owner(), Some(2)), Err(Unchanged::OtherVersion));
        assert!(update(&owner(), Some(1)).is_ok());
        assert_eq!(approved.revert(&stranger), Err(Unchanged::NotOwner));
        let retired = approved.retire(&stranger, false, UNIX_EPOCH);
        assert_eq!(retired, Err(Unchanged::NotOwner));
        assert_eq!(approved.delete(&owner()), Err(Unchanged::NotRetired));
        let administrator = Editor {
            of_all: true,
            ..stranger
        };
        assert!(update(&administrator, None).is_ok());
    }

    #[test]
    fn an_approval_is_of_what_was_read_and_by_somebody_else() {
        let new = proposed();
        let approve = |version, of, by, single_operator| {
            let approver = Approver {
                single_operator,
                ..Approver::default()
            };
            new.approve(version, &hash(of), agent(by), approver, UNIX_EPOCH)
        };
        assert_eq!(approve(1, 2, "other", false), Err(Unchanged::NotProposed));
        assert_eq!(approve(2, 1, "other", false), Err(Unchanged::NotProposed));
        assert_eq!(approve(1, 1, "owner", false), Err(Unchanged::OwnProposal));
        let own = approve(1, 1, "owner", true).unwrap();
        assert!(own.row().approval.as_ref().unwrap().own);
        let hands = Approver {
            published: true,
            ..Approver::default()
        };
        let of_a_bot = new.approve(1, &hash(1), agent("other"), hands, UNIX_EPOCH);
        assert_eq!(of_a_bot, Err(Unchanged::OwnProposal));
        let others = approve(1, 1, "other", true).unwrap();
        assert!(!others.row().approval.as_ref().unwrap().own);
        assert_eq!(new.revert(&owner()), Err(Unchanged::NothingApproved));
        assert_eq!(others.reject(1), Err(Unchanged::NotProposed));
    }

    #[test]
    fn an_edited_record_does_not_open() {
        let key = SubKey::from_secret(&[7; 32], "registry").unwrap();
        let seal = ToolSeal::new(&key).unwrap();
        let namespace: Namespace = "default".parse().unwrap();
        let record = approve(&update(&approve(&proposed()), 2, false));
        let row = seal.seal(&namespace, &record);
        assert_eq!(
            seal.open(&namespace, row.clone()).unwrap().callable(),
            record.callable()
        );
        let other = "other".parse().unwrap();
        assert_eq!(seal.open(&other, row.clone()), Err(Edited));
        type Edit = fn(&mut RecordRow);
        let edits: [Edit; 15] = [
            |row| row.name = "acme.other".parse().unwrap(),
            |row| row.revision += 1,
            |row| row.owner = None,
            |row| row.current.version += 1,
            |row| row.current.hash = hash(9),
            |row| row.current.slot = Some("other".parse().unwrap()),
            |row| row.current.by = None,
            |row| row.latest += 1,
            |row| row.staged = true,
            |row| row.approval = None,
            |row| row.approval.as_mut().unwrap().of.hash = hash(9),
            |row| row.approval.as_mut().unwrap().of.slot = Some("other".parse().unwrap()),
            |row| row.approval.as_mut().unwrap().own = true,
            |row| row.deleted = true,
            |row| row.seal = None,
        ];
        for edit in edits {
            let mut edited = row.clone();
            edit(&mut edited);
            assert_eq!(
                seal.open(&namespace, edited.clone()),
                Err(Edited),
                "{edited:?}"
            );
        }
    }

    /// What an older version of this program stored waits for its first approval.
    #[test]
    fn a_record_without_a_seal_says_nothing_that_counts() {
        let key = SubKey::from_secret(&[7; 32], "registry").unwrap();
        let seal = ToolSeal::new(&key).unwrap();
        let namespace: Namespace = "default".parse().unwrap();
        let mut old = proposed().row().clone();
        old.owner = None;
        let opened = seal.open(&namespace, old).unwrap();
        assert_eq!(opened.callable(), Err(NotCallable::NotApproved));
    }

    #[test]
    fn codes_are_distinct() {
        let codes: BTreeSet<_> = ToolState::ALL.iter().map(|state| state.code()).collect();
        assert_eq!(codes.len(), ToolState::ALL.len());
    }
}
