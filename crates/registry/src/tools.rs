//! The rules of tools: what becomes a version, who decides about it, and what is called.

use crate::{
    Approver, Callable, Edited, Editor, NotCallable, Published, RecordRow, RegistryError,
    StorageError, Tool, ToolRecord, ToolSeal, ToolState, Unchanged, openapi,
};
use async_trait::async_trait;
use std::{collections::BTreeSet, fmt, sync::Arc, time::SystemTime};
use xylem_audit::{Entry, Kind, Note, SubjectKind, Verdict};
use xylem_ids::{AgentId, Namespace, ToolName, ToolTag};

/// The most items a list answers at a time.
const MAX_PAGE: u32 = 500;
const MAX_WORDS: usize = 8;
const MAX_WORD: usize = 64;

/// What somebody decided about a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What became of the version.
    pub decided: Decided,
    /// Who decided.
    pub by: AgentId,
    /// When.
    pub at: SystemTime,
    /// Why, in their words.
    pub reason: Option<Note>,
}

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// It was approved.
    Approved,
    /// It was turned down.
    Rejected,
    /// It was taken back.
    Reverted,
}

impl Decided {
    /// Every decision.
    pub const ALL: [Self; 3] = [Self::Approved, Self::Rejected, Self::Reverted];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Reverted => "reverted",
        }
    }
}

/// One version of a tool, without its definition. What was decided is told for people; what counts
/// is in the record, and what happened in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolVersion {
    /// What was published.
    pub published: Published,
    /// What was decided about it last.
    pub decision: Option<Decision>,
}

/// What a search looks for: all of it has to fit.
#[derive(Debug, Clone, Default)]
pub struct ToolFilter {
    words: Vec<String>,
    /// Tags it has.
    pub tags: BTreeSet<ToolTag>,
    /// Its state.
    pub state: Option<ToolState>,
    /// Who owns it.
    pub owner: Option<AgentId>,
}

impl ToolFilter {
    /// Looks for words in name, description and tags, whatever their case.
    ///
    /// # Errors
    /// There are more than 8 words, or one has more than 64 characters.
    pub fn words(text: &str) -> Result<Self, crate::Invalid> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        if words.len() > MAX_WORDS || words.iter().any(|word| word.chars().count() > MAX_WORD) {
            return Err(crate::Invalid::new(
                "query",
                "at most 8 words of at most 64 characters",
            ));
        }
        Ok(Self {
            words,
            ..Self::default()
        })
    }

    /// The words, in lower case.
    #[must_use]
    pub fn lower_words(&self) -> &[String] {
        &self.words
    }
}

/// One change of one tool, as it is stored.
#[derive(Debug)]
pub struct ToolChange<'a> {
    /// The record, sealed.
    pub row: RecordRow,
    /// The revision that it replaces; none where the tool is new.
    pub replaces: Option<u64>,
    /// The state it is found by.
    pub state: ToolState,
    /// The definition of a new version.
    pub publish: Option<&'a Tool>,
    /// What it is found by, where another version is current from now on.
    pub current: Option<&'a Tool>,
    /// A version and what was decided about it.
    pub decision: Option<(u32, Decision)>,
    /// What is written to the audit log with it.
    pub entry: Entry,
}

/// What the registry keeps of tools. Every method is one transaction.
#[async_trait]
pub trait ToolStorage: Send + Sync {
    /// A tool's record; also of one that was deleted.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn record(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<Option<RecordRow>, StorageError>;

    /// The definition of one version.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn definition(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        version: u32,
    ) -> Result<Option<Tool>, StorageError>;

    /// Versions, the newest first, beginning below `before`.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn versions(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<ToolVersion>, StorageError>;

    /// Tools that were not deleted, with their current definitions, in the order of their names,
    /// beginning after `after`.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn find(
        &self,
        namespace: &Namespace,
        filter: &ToolFilter,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Result<Vec<(RecordRow, Tool)>, StorageError>;

    /// Stores changes with their entries, all of them or none.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where a new tool's name is taken, [`StorageError::Changed`] where a
    /// record is at another revision, [`StorageError::InUse`] where a tree names a tool that is to
    /// be deleted.
    async fn change(
        &self,
        namespace: &Namespace,
        changes: &[ToolChange<'_>],
        now: SystemTime,
    ) -> Result<(), StorageError>;
}

/// A tool: what is known of it, and one of its definitions.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownTool {
    /// What is known of it.
    pub record: ToolRecord,
    /// The version of the definition.
    pub version: u32,
    /// The definition.
    pub tool: Tool,
}

impl KnownTool {
    fn current(record: ToolRecord, tool: Tool) -> Self {
        let version = record.row().current.version;
        Self {
            record,
            version,
            tool,
        }
    }
}

/// How tools are imported.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// Where they are from, for the audit log.
    pub from: &'a str,
    /// Whether whoever imports says whose token they send; known tools keep theirs otherwise.
    pub names_token: bool,
    /// Whether nothing is stored.
    pub dry_run: bool,
}

/// What an import does with a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is proposed.
    New,
    /// Its next version waits for approval; calls go on with the approved one.
    Updated,
    /// It has this definition already.
    Unchanged,
}

/// What becomes of one tool of an import.
struct Planned {
    before: Option<ToolRecord>,
    known: KnownTool,
    imported: Imported,
}

/// The tools of the registry.
#[derive(Clone)]
pub struct Tools {
    storage: Arc<dyn ToolStorage>,
    pub(crate) seal: Arc<ToolSeal>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

/// Who does something, and when.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// Who.
    pub editor: Editor,
    /// When.
    pub at: SystemTime,
    /// The call that it is done in.
    pub entry: Entry,
}

impl<'a> Act<'a> {
    /// Something that is done outside of a call.
    #[must_use]
    pub fn new(namespace: &'a Namespace, editor: Editor, at: SystemTime) -> Self {
        Self {
            namespace,
            editor,
            at,
            entry: Entry::new(at, Kind::ToolRegistered, Verdict::Succeeded),
        }
    }

    /// The entry of what is done to this tool.
    #[must_use]
    pub fn entry(&self, kind: Kind, name: &ToolName) -> Entry {
        let mut entry = self.entry.clone().by(&self.editor.agent);
        entry.kind = kind;
        entry.namespace = Some(self.namespace.clone());
        entry.tool = Some(name.clone());
        entry.regarding(SubjectKind::Tool, name)
    }

    fn decision(&self, decided: Decided, reason: Option<Note>) -> Decision {
        Decision {
            decided,
            by: self.editor.agent.clone(),
            at: self.at,
            reason,
        }
    }
}

impl Tools {
    /// Tools over this storage, their records sealed under this key.
    #[must_use]
    pub fn new(storage: Arc<dyn ToolStorage>, seal: ToolSeal) -> Self {
        Self {
            storage,
            seal: Arc::new(seal),
        }
    }

    /// Proposes a new tool. To register the same definition again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError::ToolExists`] where another definition has the name, or it was deleted.
    pub async fn register(&self, act: &Act<'_>, tool: Tool) -> Result<KnownTool, RegistryError> {
        match self.record(act.namespace, tool.name()).await {
            Err(RegistryError::NotFound { .. }) => {}
            Ok(record) if record.row().current.hash == *tool.hash() => {
                return Ok(KnownTool::current(record, tool));
            }
            Ok(_) => return Err(RegistryError::ToolExists),
            Err(error) => return Err(error),
        }
        let record = ToolRecord::propose(
            tool.name().clone(),
            tool.hash().clone(),
            tool.slot().cloned(),
            act.editor.agent.clone(),
            act.at,
        );
        let mut change = self.change(act, None, &record, Kind::ToolRegistered);
        change.publish = Some(&tool);
        change.current = Some(&tool);
        self.store(act, vec![change]).await?;
        Ok(KnownTool::current(record, tool))
    }

    /// Publishes the next version of a tool. The same definition again changes nothing.
    ///
    /// # Errors
    /// There is no such tool, or it may not be changed so.
    pub async fn update(
        &self,
        act: &Act<'_>,
        tool: Tool,
        expected: Option<u32>,
        staged: bool,
    ) -> Result<KnownTool, RegistryError> {
        let before = self.record(act.namespace, tool.name()).await?;
        if before.row().current.hash == *tool.hash() {
            return Ok(KnownTool::current(before, tool));
        }
        let (hash, slot) = (tool.hash().clone(), tool.slot().cloned());
        let record = before.update(hash, slot, &act.editor, expected, staged, act.at)?;
        let mut change = self.change(act, Some(&before), &record, Kind::ToolUpdated);
        change.publish = Some(&tool);
        change.current = Some(&tool);
        self.store(act, vec![change]).await?;
        Ok(KnownTool::current(record, tool))
    }

    /// Proposes tools, all or none: new ones, and next versions of known ones, whose calls go on with
    /// what is approved. Entries say where they are from.
    ///
    /// # Errors
    /// [`RegistryError::Import`] where one of them may not be changed so.
    pub async fn import(
        &self,
        act: &Act<'_>,
        tools: Vec<Tool>,
        given: &Import<'_>,
    ) -> Result<Vec<(KnownTool, Imported)>, RegistryError> {
        let mut planned = Vec::with_capacity(tools.len());
        for tool in tools {
            let name = tool.name().clone();
            let plan = self.plan(act, given, tool).await;
            planned.push(plan.map_err(|error| RegistryError::Import {
                tool: name,
                error: Box::new(error),
            })?);
        }
        let changes: Vec<_> = planned
            .iter()
            .filter_map(|plan| self.planned_change(act, plan, given.from))
            .collect();
        if !given.dry_run && !changes.is_empty() {
            self.store(act, changes).await?;
        }
        let done = planned.into_iter();
        Ok(done.map(|plan| (plan.known, plan.imported)).collect())
    }

    async fn plan(
        &self,
        act: &Act<'_>,
        given: &Import<'_>,
        mut tool: Tool,
    ) -> Result<Planned, RegistryError> {
        let before = match self.storage.record(act.namespace, tool.name()).await? {
            None => None,
            Some(row) => Some(self.open(act.namespace, row)?),
        };
        if let Some(before) = before.as_ref().filter(|before| !before.row().deleted) {
            tool = self.keeping(act.namespace, before, given, tool).await?;
        }
        let (hash, slot) = (tool.hash().clone(), tool.slot().cloned());
        let (record, imported) = match &before {
            None => {
                let (name, by) = (tool.name().clone(), act.editor.agent.clone());
                let record = ToolRecord::propose(name, hash, slot, by, act.at);
                (record, Imported::New)
            }
            Some(before) if before.row().deleted => return Err(RegistryError::ToolExists),
            Some(before) if before.row().current.hash == hash => {
                (before.clone(), Imported::Unchanged)
            }
            Some(before) => {
                let record = before.update(hash, slot, &act.editor, None, true, act.at)?;
                (record, Imported::Updated)
            }
        };
        Ok(Planned {
            before,
            known: KnownTool::current(record, tool),
            imported,
        })
    }

    /// A tool as a document has it; what the document says nothing about is as it is in its current
    /// version.
    async fn keeping(
        &self,
        namespace: &Namespace,
        before: &ToolRecord,
        given: &Import<'_>,
        tool: Tool,
    ) -> Result<Tool, RegistryError> {
        let current = self.current(namespace, before).await?;
        let (known, tool) = (current.definition().clone(), tool.definition().clone());
        Ok(Tool::new(openapi::kept(known, tool, given.names_token))?)
    }

    fn planned_change<'a>(
        &self,
        act: &Act<'_>,
        plan: &'a Planned,
        from: &str,
    ) -> Option<ToolChange<'a>> {
        let kind = match plan.imported {
            Imported::New => Kind::ToolRegistered,
            Imported::Updated => Kind::ToolUpdated,
            Imported::Unchanged => return None,
        };
        let KnownTool { record, tool, .. } = &plan.known;
        let mut change = self.change(act, plan.before.as_ref(), record, kind);
        let said = change.entry.note.as_ref().map_or("", Note::as_str);
        change.entry.note = Note::new(&format!("{said}, from {from}"));
        change.publish = Some(tool);
        change.current = Some(tool);
        Some(change)
    }

    /// Pins the definition of the current version. `single_operator` says whether who published it
    /// may do that too.
    ///
    /// # Errors
    /// There is no such tool, or that is not for this agent to approve.
    pub async fn approve(
        &self,
        act: &Act<'_>,
        name: &ToolName,
        version: u32,
        hash: &crate::DefinitionHash,
        approver: Approver,
    ) -> Result<KnownTool, RegistryError> {
        let before = self.record(act.namespace, name).await?;
        let by = act.editor.agent.clone();
        let record = before.approve(version, hash, by, approver, act.at)?;
        // What is approved is what lies there: it is read, and its hash is computed, once more.
        let tool = self.current(act.namespace, &record).await?;
        if record != before {
            let mut change = self.change(act, Some(&before), &record, Kind::ToolApproved);
            if record.row().approval.as_ref().is_some_and(|it| it.own) {
                change.entry = change.entry.because("single_operator");
            }
            change.current = Some(&tool);
            change.decision = Some((version, act.decision(Decided::Approved, None)));
            self.store(act, vec![change]).await?;
        }
        Ok(KnownTool::current(record, tool))
    }

    /// Turns down what waits for approval.
    ///
    /// # Errors
    /// There is no such tool, or that version does not wait for approval.
    pub async fn reject(
        &self,
        act: &Act<'_>,
        name: &ToolName,
        version: u32,
        reason: Note,
    ) -> Result<KnownTool, RegistryError> {
        let before = self.record(act.namespace, name).await?;
        let record = before.reject(version)?;
        let tool = self.current(act.namespace, &record).await?;
        let mut change = self.change(act, Some(&before), &record, Kind::ToolRejected);
        change.entry.note = Some(reason.clone());
        change.current = Some(&tool);
        change.decision = Some((version, act.decision(Decided::Rejected, Some(reason))));
        self.store(act, vec![change]).await?;
        Ok(KnownTool::current(record, tool))
    }

    /// Takes back what waits for approval: the approved version is in force again.
    ///
    /// # Errors
    /// There is no such tool, or nothing that it could go back to.
    pub async fn revert(&self, act: &Act<'_>, name: &ToolName) -> Result<KnownTool, RegistryError> {
        let before = self.record(act.namespace, name).await?;
        let record = before.revert(&act.editor)?;
        let tool = self.current(act.namespace, &record).await?;
        let given_up = before.row().current.version;
        if given_up != record.row().current.version {
            let mut change = self.change(act, Some(&before), &record, Kind::ToolReverted);
            change.current = Some(&tool);
            change.decision = Some((given_up, act.decision(Decided::Reverted, None)));
            self.store(act, vec![change]).await?;
        }
        Ok(KnownTool::current(record, tool))
    }

    /// Keeps new trees from using a tool; with `stops_calls`, all trees from calling it.
    ///
    /// # Errors
    /// There is no such tool, or it is not for this agent to retire.
    pub async fn retire(
        &self,
        act: &Act<'_>,
        name: &ToolName,
        stops_calls: bool,
    ) -> Result<KnownTool, RegistryError> {
        let before = self.record(act.namespace, name).await?;
        let record = before.retire(&act.editor, stops_calls, act.at)?;
        let tool = self.current(act.namespace, &record).await?;
        let change = self.change(act, Some(&before), &record, Kind::ToolRetired);
        self.store(act, vec![change]).await?;
        Ok(KnownTool::current(record, tool))
    }

    /// Deletes a retired tool that no tree uses. Its name stays taken: policies may still name it.
    ///
    /// # Errors
    /// There is no such tool, it is not retired, or [`RegistryError::InUse`].
    pub async fn delete(&self, act: &Act<'_>, name: &ToolName) -> Result<(), RegistryError> {
        let before = self.record(act.namespace, name).await?;
        let record = before.delete(&act.editor)?;
        let change = self.change(act, Some(&before), &record, Kind::ToolDeleted);
        self.store(act, vec![change]).await
    }

    /// A tool and its current definition.
    ///
    /// # Errors
    /// There is none of this name, or it was edited.
    pub async fn get(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<KnownTool, RegistryError> {
        let record = self.record(namespace, name).await?;
        let tool = self.current(namespace, &record).await?;
        Ok(KnownTool::current(record, tool))
    }

    /// A tool and the definition of one of its versions.
    ///
    /// # Errors
    /// There is no such tool or version.
    pub async fn version(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        version: u32,
    ) -> Result<KnownTool, RegistryError> {
        let record = self.record(namespace, name).await?;
        let tool = self.storage.definition(namespace, name, version).await?;
        let tool = tool.ok_or(RegistryError::NotFound { what: "version" })?;
        Ok(KnownTool {
            record,
            version,
            tool,
        })
    }

    /// The versions of a tool, the newest first, beginning below `before`; at most 500.
    ///
    /// # Errors
    /// There is no such tool.
    pub async fn versions(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<ToolVersion>, RegistryError> {
        self.record(namespace, name).await?;
        let limit = limit.clamp(1, MAX_PAGE);
        let versions = self
            .storage
            .versions(namespace, name, before, limit)
            .await?;
        Ok(versions)
    }

    /// The definition that is called.
    ///
    /// # Errors
    /// There is no such tool, or [`RegistryError::NotCallable`].
    pub async fn callable(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<KnownTool, RegistryError> {
        let record = self.record(namespace, name).await?;
        let callable = record.callable()?;
        let tool = self.approved(namespace, name, &callable).await?;
        Ok(KnownTool {
            record,
            version: callable.version(),
            tool,
        })
    }

    /// The definition of a tool that a tree may be allowed from now on.
    ///
    /// # Errors
    /// There is no such tool, or [`RegistryError::NotCallable`].
    pub async fn usable(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<Tool, RegistryError> {
        let record = self.record(namespace, name).await?;
        let callable = record.usable()?;
        self.approved(namespace, name, &callable).await
    }

    /// Tools in the order of their names, beginning after `after`; at most 500, whether or not their
    /// reader may know of them.
    ///
    /// # Errors
    /// The storage failed, or a record was edited.
    pub async fn find(
        &self,
        namespace: &Namespace,
        filter: &ToolFilter,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Result<Vec<KnownTool>, RegistryError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let found = self.storage.find(namespace, filter, after, limit).await?;
        found
            .into_iter()
            .map(|(row, tool)| {
                let record = self.open(namespace, row)?;
                check(&record.row().name, &record.row().current.hash, &tool)?;
                Ok(KnownTool::current(record, tool))
            })
            .collect()
    }

    async fn record(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<ToolRecord, RegistryError> {
        const NONE: RegistryError = RegistryError::NotFound { what: "tool" };
        let row = self.storage.record(namespace, name).await?;
        let record = self.open(namespace, row.ok_or(NONE)?)?;
        if record.row().deleted {
            return Err(NONE);
        }
        Ok(record)
    }

    fn open(&self, namespace: &Namespace, row: RecordRow) -> Result<ToolRecord, RegistryError> {
        let name = row.name.clone();
        let opened = self.seal.open(namespace, row);
        opened.map_err(|Edited| edited(&name))
    }

    async fn current(
        &self,
        namespace: &Namespace,
        record: &ToolRecord,
    ) -> Result<Tool, RegistryError> {
        let Published { version, hash, .. } = &record.row().current;
        let tool = self
            .storage
            .definition(namespace, &record.row().name, *version)
            .await?;
        let tool = tool.ok_or_else(|| edited(&record.row().name))?;
        check(&record.row().name, hash, &tool)?;
        Ok(tool)
    }

    async fn approved(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        callable: &Callable,
    ) -> Result<Tool, RegistryError> {
        let tool = self
            .storage
            .definition(namespace, name, callable.version())
            .await?;
        let tool = tool.ok_or_else(|| edited(name))?;
        check(name, callable.hash(), &tool)?;
        Ok(tool)
    }

    /// A change with its entry: which version it is about, and who made it.
    fn change<'a>(
        &self,
        act: &Act<'_>,
        before: Option<&ToolRecord>,
        record: &ToolRecord,
        kind: Kind,
    ) -> ToolChange<'a> {
        let mut entry = act.entry(kind, &record.row().name);
        let Published { version, hash, .. } = &record.row().current;
        entry.note = Note::new(&format!("version {version}, definition {hash}"));
        ToolChange {
            row: self.seal.seal(act.namespace, record),
            replaces: before.map(|before| before.row().revision),
            state: record.state(),
            publish: None,
            current: None,
            decision: None,
            entry,
        }
    }

    async fn store(
        &self,
        act: &Act<'_>,
        changes: Vec<ToolChange<'_>>,
    ) -> Result<(), RegistryError> {
        let stored = self.storage.change(act.namespace, &changes, act.at).await;
        stored.map_err(|error| match error {
            StorageError::Exists => RegistryError::ToolExists,
            StorageError::Changed => Unchanged::OtherVersion.into(),
            StorageError::InUse => RegistryError::InUse,
            other => other.into(),
        })
    }
}

fn edited(name: &ToolName) -> RegistryError {
    RegistryError::Tampered {
        what: "tool",
        which: name.to_string(),
    }
}

/// A definition that is not the one the record names was edited.
fn check(name: &ToolName, hash: &crate::DefinitionHash, tool: &Tool) -> Result<(), RegistryError> {
    if tool.hash() == hash {
        Ok(())
    } else {
        Err(edited(name))
    }
}

impl From<NotCallable> for RegistryError {
    fn from(why: NotCallable) -> Self {
        Self::NotCallable(why)
    }
}
