//! The policies of an installation: kept sealed, loaded when they change, and asked.
//!
//! Whoever decides looks at the namespace's set row in its own transaction. Where that is not the one
//! that was loaded, policies are loaded again, in that transaction: a change holds on every instance
//! from its commit on.

use crate::{
    Bounds, Call, Compiler, Denied, Document, Engine, Facts, Invalid, Permit, Policy, PolicyError,
    PolicyRef, Report, Resource, ToolFacts, Usage,
    facts::Ask,
    look::{Look, Recalled},
    storage::{PolicyRow, Rows, SetRow, Storage},
    value::Action,
};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, Kind, Note, Subject, SubjectKind, Verdict};
use xylem_identity::Secrets;
use xylem_ids::{
    AccessId, AgentId, AgentKind, Namespace, PolicyName, Roles, TaskQueue, WorkflowType,
};
use xylem_recall::Revision;
use xylem_seal::{Fields, Mac, MacKey};

/// Policies that a namespace may have.
const MOST: usize = 10_000;

/// A policy as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was written.
    pub document: Document,
    /// Which version.
    pub version: u32,
    /// Whether it holds no more.
    pub retired: bool,
    /// Who wrote it.
    pub author: AgentId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// What it says in Cedar; empty for one that holds no more.
    pub compiled: String,
}

/// What is known about a call of a tree, beside the call itself.
#[derive(Debug, Clone, Copy)]
pub struct CallFacts<'a> {
    /// The agent that owns the tree.
    pub owner: &'a AgentId,
    /// The tool.
    pub tool: &'a ToolFacts,
    /// Now, in seconds since 1970.
    pub now: u64,
    /// The type of the calling workflow.
    pub workflow_type: &'a WorkflowType,
    /// The task queue it calls on.
    pub task_queue: &'a TaskQueue,
    /// Seconds since the version of the token was deposited.
    pub token_age: Option<u64>,
    /// Where the worker is.
    pub address: Option<IpAddr>,
    /// The parameters of the call.
    pub parameters: Option<&'a serde_json::Value>,
}

/// A call that is not made.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who would make it.
    pub agent: &'a AgentId,
    /// What it would do.
    pub action: Action,
    /// With which tool.
    pub tool: &'a ToolFacts,
    /// What is known of it. What was counted and approved is looked up.
    pub facts: Facts<'a>,
}

/// What decides about an agent.
pub(crate) struct Known {
    pub(crate) kind: AgentKind,
    pub(crate) roles: Roles,
    retired: bool,
    pub(crate) created_by: Option<AgentId>,
}

/// The policies of one namespace at one generation.
pub(crate) struct Loaded {
    set: Option<SetRow>,
    records: Vec<Record>,
    pub(crate) engine: Engine,
}

impl Loaded {
    fn generation(&self) -> u64 {
        self.set.as_ref().map_or(0, |set| set.generation)
    }
}

/// Keeps policies, and decides by them.
pub struct Policies {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) seals: MacKey,
    agents: Secrets,
    system: AgentId,
    compiler: Compiler,
    loaded: RwLock<HashMap<Namespace, Arc<Loaded>>>,
    pub(crate) recalled: Recalled,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policies")
    }
}

/// Deciding.
impl Policies {
    /// Policies in this storage, sealed under this key; agents are sealed under their own. `system` owns
    /// what others started without asking, has no roles, and is the one that is registered nowhere.
    ///
    /// # Errors
    /// The schema is broken.
    pub fn new(
        storage: Arc<dyn Storage>,
        seals: MacKey,
        agents: Secrets,
        system: AgentId,
    ) -> Result<Self, PolicyError> {
        Ok(Self {
            storage,
            seals,
            agents,
            system,
            compiler: Compiler::new()?,
            loaded: RwLock::default(),
            recalled: Recalled::default(),
        })
    }

    /// Decides whether a node may call a tool, in the transaction that acts on the answer.
    ///
    /// # Errors
    /// Nothing can be decided: policies are not what was written, or the storage failed.
    pub async fn permit(
        &self,
        rows: &mut dyn Rows,
        call: Call<'_>,
        bounds: Bounds<'_>,
        facts: CallFacts<'_>,
    ) -> Result<Result<Permit, Denied>, PolicyError> {
        let namespace = &call.tree.namespace;
        let loaded = self.current(rows, namespace).await?;
        let owner = self.agent(rows, namespace, facts.owner).await?;
        if owner.retired {
            return Ok(Err(Denied::OwnerRetired));
        }
        let ask = Ask {
            agent: facts.owner,
            kind: owner.kind.code(),
            roles: &owner.roles,
            action: Action::Execute,
            resource: Resource::Tool(facts.tool),
        };
        let tree = call.tree.workflow_id.as_str();
        let mut keys = loaded.engine.counters(&ask, Some(tree));
        keys.extend(bounds.limit.map(|limit| limit.key(call.tool)));
        let usage: Usage = rows.usage(namespace, &keys).await?.into_iter().collect();
        let approvals = self.approvals(rows, namespace, &ask, facts.now).await?;
        let facts = Facts {
            now: facts.now,
            tree: Some(tree),
            workflow_type: Some(facts.workflow_type),
            task_queue: Some(facts.task_queue),
            parameters: facts.parameters,
            token_age: facts.token_age,
            address: facts.address,
            signed_in: None,
            second_factor: false,
            usage: &usage,
            approvals: &approvals,
        };
        Ok(loaded.engine.permit(call, bounds, &ask, &facts))
    }

    /// Counts a call that was granted, in the transaction that grants it.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn count(
        &self,
        rows: &mut dyn Rows,
        permit: &Permit,
        now: u64,
    ) -> Result<(), PolicyError> {
        let keys = permit.uses();
        if keys.is_empty() {
            return Ok(());
        }
        let namespace = &permit.tree().namespace;
        let usage: Usage = rows.usage(namespace, keys).await?.into_iter().collect();
        for key in keys {
            let counter = usage.counted(key, now);
            rows.put_usage(namespace, key, counter).await?;
        }
        Ok(())
    }

    /// What is known of an agent that acts or owns something. Agents are never removed, not even when
    /// they are erased: where the row is missing, somebody else removed it.
    pub(crate) async fn agent(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<Known, PolicyError> {
        let known = self.find_agent(rows, namespace, id).await?;
        known.ok_or_else(|| PolicyError::tampered("agent", id))
    }

    /// What is known of an agent; none where there is none of this name.
    pub(crate) async fn find_agent(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<Option<Known>, PolicyError> {
        let Some(agent) = rows.owner(namespace, id).await? else {
            return Ok((*id == self.system).then(|| Known {
                kind: AgentKind::Service,
                roles: Roles::new(),
                retired: false,
                created_by: None,
            }));
        };
        let agent = self.agents.check_agent(agent);
        let agent = agent.map_err(|_| PolicyError::tampered("agent", id))?;
        Ok(Some(Known {
            kind: agent.kind,
            roles: agent.roles,
            retired: agent.retired_at.is_some(),
            created_by: agent.created_by,
        }))
    }

    /// The policies as this transaction sees them.
    pub(crate) async fn current(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
    ) -> Result<Arc<Loaded>, PolicyError> {
        // In this order: what this process knows was committed before the row is read.
        let known = self.known(namespace);
        let set = rows.policy_set(namespace).await?;
        if let Some(known) = &known {
            if known.set == set {
                return Ok(Arc::clone(known));
            }
            // Generations only go up: an older one was put back.
            if set.as_ref().map_or(0, |set| set.generation) < known.generation() {
                return Err(PolicyError::tampered("set of policies", namespace));
            }
        }
        let stored = rows.policies(namespace).await?;
        let loaded = Arc::new(self.load(namespace, set, &stored, known.as_deref())?);
        self.remember(namespace, &loaded);
        Ok(loaded)
    }

    fn known(&self, namespace: &Namespace) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(namespace).map(Arc::clone)
    }

    fn remember(&self, namespace: &Namespace, new: &Arc<Loaded>) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let known = loaded.get(namespace).map_or(0, |known| known.generation());
        if known <= new.generation() {
            loaded.insert(namespace.clone(), Arc::clone(new));
        }
    }

    /// Checks every seal, and that nothing is missing.
    fn load(
        &self,
        namespace: &Namespace,
        set: Option<SetRow>,
        rows: &[PolicyRow],
        known: Option<&Loaded>,
    ) -> Result<Loaded, PolicyError> {
        match &set {
            Some(set) if set.seal == self.seal_set(namespace, set.generation, rows) => {}
            None if rows.is_empty() => {}
            _ => return Err(PolicyError::tampered("set of policies", namespace)),
        }
        for row in rows {
            if row.seal != self.seal(row) {
                return Err(PolicyError::tampered("policy", reference(row)));
            }
        }
        let (records, engine) = self.compile(rows, known)?;
        Ok(Loaded {
            set,
            records,
            engine,
        })
    }

    /// Compiles what holds; what has not changed since, and stands for itself, is not compiled again.
    fn compile(
        &self,
        rows: &[PolicyRow],
        known: Option<&Loaded>,
    ) -> Result<(Vec<Record>, Engine), PolicyError> {
        let known: HashMap<&PolicyRef, &Arc<Policy>> = known
            .into_iter()
            .flat_map(|known| known.engine.policies())
            .map(|policy| (policy.reference(), policy))
            .collect();
        let documents: Vec<Document> = rows
            .iter()
            .map(|row| serde_json::from_str(&row.document))
            .collect::<Result<_, _>>()
            .map_err(PolicyError::engine)?;
        let living: HashMap<&PolicyName, &Document> = rows
            .iter()
            .zip(&documents)
            .filter(|(row, _)| !row.retired)
            .map(|(row, document)| (&row.name, document))
            .collect();
        let parent = |name: &PolicyName| living.get(name).copied();
        let mut policies = Vec::with_capacity(rows.len());
        let mut records = Vec::with_capacity(rows.len());
        for (row, document) in rows.iter().zip(&documents) {
            let mut compiled = String::new();
            if !row.retired {
                let same = known.get(&reference(row)).copied();
                let policy = match same.filter(|_| document.inherits.is_none()) {
                    Some(policy) => Arc::clone(policy),
                    None => {
                        let new = self.compiler.compile(document, row.version, &parent);
                        Arc::new(new.map_err(|error| error.of(&row.name))?)
                    }
                };
                policy.text().clone_into(&mut compiled);
                policies.push(policy);
            }
            records.push(Record {
                document: document.clone(),
                version: row.version,
                retired: row.retired,
                author: row.author.clone(),
                at: row.at,
                compiled,
            });
        }
        Ok((records, Engine::new(policies)?))
    }

    fn seal(&self, row: &PolicyRow) -> Mac {
        let fields = Fields::new("policy")
            .text(row.namespace.as_str())
            .text(row.name.as_str())
            .number(row.version)
            .text(&row.document)
            .number(u32::from(row.retired))
            .text(row.author.as_str())
            .number(row.at);
        self.seals.seal(&fields)
    }

    fn seal_set(&self, namespace: &Namespace, generation: u64, rows: &[PolicyRow]) -> Mac {
        let fields = Fields::new("policy set")
            .text(namespace.as_str())
            .number(generation)
            .number(rows.len() as u64);
        let all = rows.iter().fold(fields, |fields, row| {
            fields
                .text(row.name.as_str())
                .number(row.version)
                .bytes(&row.seal.0)
        });
        self.seals.seal(&all)
    }
}

fn reference(row: &PolicyRow) -> PolicyRef {
    PolicyRef {
        name: row.name.clone(),
        version: row.version,
    }
}

/// Who changes policies, and what is said about it.
#[derive(Debug, Clone)]
pub struct Author {
    /// The agent.
    pub agent: AgentId,
    /// When.
    pub at: SystemTime,
    /// Why, in its own words.
    pub note: Option<Note>,
}

impl Author {
    fn seconds(&self) -> u64 {
        let since = self.at.duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }
}

/// What a change does.
enum Change<'a> {
    Create(&'a Document),
    Update(&'a Document, Option<u32>),
    Retire(&'a PolicyName, Option<u32>),
}

impl Change<'_> {
    fn name(&self) -> &PolicyName {
        match self {
            Self::Create(document) | Self::Update(document, _) => &document.name,
            Self::Retire(name, _) => name,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Create(_) => Kind::PolicyCreated,
            Self::Update(..) => Kind::PolicyUpdated,
            Self::Retire(..) => Kind::PolicyRetired,
        }
    }
}

/// Managing.
impl Policies {
    /// Stores a new policy.
    ///
    /// # Errors
    /// A field breaks its rule, the name is taken, or the storage failed.
    pub async fn create(
        &self,
        namespace: &Namespace,
        document: &Document,
        author: &Author,
    ) -> Result<Record, PolicyError> {
        self.change(namespace, &Change::Create(document), author)
            .await
    }

    /// Stores the next version of a policy; a retired one holds again.
    ///
    /// # Errors
    /// A field breaks its rule, a policy that inherits from it would break one, there is no such
    /// policy, its version is not the expected one, or the storage failed.
    pub async fn update(
        &self,
        namespace: &Namespace,
        document: &Document,
        expected: Option<u32>,
        author: &Author,
    ) -> Result<Record, PolicyError> {
        let change = Change::Update(document, expected);
        self.change(namespace, &change, author).await
    }

    /// Has a policy hold no more.
    ///
    /// # Errors
    /// Others inherit from it, there is no such policy, its version is not the expected one, or the
    /// storage failed.
    pub async fn retire(
        &self,
        namespace: &Namespace,
        name: &PolicyName,
        expected: Option<u32>,
        author: &Author,
    ) -> Result<Record, PolicyError> {
        let change = Change::Retire(name, expected);
        self.change(namespace, &change, author).await
    }

    /// Stores a policy where the namespace never had one; answers whether it did.
    ///
    /// # Errors
    /// As [`Policies::create`].
    pub async fn create_first(
        &self,
        namespace: &Namespace,
        document: &Document,
        author: &Author,
    ) -> Result<bool, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        if rows.policy_set(namespace).await?.is_some() {
            return Ok(false);
        }
        drop(rows);
        match self.create(namespace, document, author).await {
            Err(PolicyError::Exists) => Ok(false),
            created => created.map(|_| true),
        }
    }

    /// Says what would be decided, and how that comes about. Nothing is counted. `with` is as if it
    /// were stored, too. What is remembered of a revision that was read after the question came is
    /// good enough: nothing is done about the answer.
    ///
    /// # Errors
    /// `with` breaks a rule, or the storage failed.
    pub async fn check(
        &self,
        namespace: &Namespace,
        question: &Question<'_>,
        with: Option<&Document>,
        at: Revision,
    ) -> Result<Report, PolicyError> {
        let mut look = Look::new(self, namespace, at);
        let current = look.loaded().await?;
        let tried;
        let engine = match with {
            None => &current.engine,
            Some(document) => {
                tried = self.tried(&current, document)?;
                &tried
            }
        };
        let known = look.agent(question.agent).await?;
        let ask = Ask {
            agent: question.agent,
            kind: known.kind.code(),
            roles: &known.roles,
            action: question.action,
            resource: Resource::Tool(question.tool),
        };
        let keys = engine.counters(&ask, question.facts.tree);
        let usage = look.usage(&keys).await?;
        let approvals = look.approvals(&ask, question.facts.now).await?;
        let facts = Facts {
            usage: &usage,
            approvals: &approvals,
            ..question.facts
        };
        Ok(engine.check(&ask, &facts))
    }

    /// Which of these tools an agent may know of: those that it may conceivably read or call, by what is
    /// approved `now`, in seconds since 1970. As with [`Policies::check`], what is remembered is good
    /// enough.
    ///
    /// # Errors
    /// The storage failed, or what is stored was edited.
    pub async fn visible(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        tools: &[ToolFacts],
        now: u64,
        at: Revision,
    ) -> Result<Vec<bool>, PolicyError> {
        let mut look = Look::new(self, namespace, at);
        let current = look.loaded().await?;
        let known = look.agent(agent).await?;
        let approved = look.approved(agent, None).await?;
        let may_see = |tool: &ToolFacts| {
            let ask = Ask {
                agent,
                kind: known.kind.code(),
                roles: &known.roles,
                action: Action::Read,
                resource: Resource::Tool(tool),
            };
            current.engine.may_see(&ask, |ask| {
                let approved = approved.iter();
                let holds = approved.filter_map(|it| it.approval(ask, &tool.name, now));
                holds.collect()
            })
        };
        Ok(tools.iter().map(may_see).collect())
    }

    /// What is approved for an agent `now`, in seconds since 1970: it ends by the clock, which no
    /// revision tells.
    ///
    /// # Errors
    /// The storage failed, or what is stored was edited.
    pub async fn in_force(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        now: u64,
        at: Revision,
    ) -> Result<Vec<AccessId>, PolicyError> {
        let mut look = Look::new(self, namespace, at);
        let approved = look.approved(agent, None).await?;
        let holds = approved.iter().filter(|it| it.state.ends() > now);
        Ok(holds.map(|it| it.id.clone()).collect())
    }

    /// An engine with one document more, or another version of one.
    fn tried(&self, current: &Loaded, document: &Document) -> Result<Engine, PolicyError> {
        let living = current.records.iter().filter(|record| !record.retired);
        let others = || {
            living
                .clone()
                .filter(|known| known.document.name != document.name)
        };
        let parent = |name: &PolicyName| {
            let known = others().find(|known| known.document.name == *name);
            known.map(|known| &known.document)
        };
        let before = current
            .records
            .iter()
            .find(|known| known.document.name == document.name);
        let version = before.map_or(1, |known| known.version.saturating_add(1));
        let new = Arc::new(self.compiler.compile(document, version, &parent)?);
        current.engine.with(new)
    }

    /// One version of a policy; the newest where none is named.
    ///
    /// # Errors
    /// There is no such policy, or the storage failed.
    pub async fn get(
        &self,
        namespace: &Namespace,
        name: &PolicyName,
        version: Option<u32>,
    ) -> Result<Record, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        let loaded = self.current(&mut *rows, namespace).await?;
        let newest = loaded
            .records
            .iter()
            .find(|record| record.document.name == *name)
            .ok_or(PolicyError::NotFound)?;
        let Some(version) = version.filter(|version| *version != newest.version) else {
            return Ok(newest.clone());
        };
        let row = rows.policy(namespace, name, version).await?;
        let row = row.ok_or(PolicyError::NotFound)?;
        if row.seal != self.seal(&row) {
            return Err(PolicyError::tampered("policy", reference(&row)));
        }
        Ok(Record {
            document: serde_json::from_str(&row.document).map_err(PolicyError::engine)?,
            version: row.version,
            retired: row.retired,
            author: row.author,
            at: row.at,
            compiled: String::new(),
        })
    }

    /// The newest version of every policy, retired ones too, in the order of their names.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn list(&self, namespace: &Namespace) -> Result<Vec<Record>, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        Ok(self.current(&mut *rows, namespace).await?.records.clone())
    }

    async fn change(
        &self,
        namespace: &Namespace,
        change: &Change<'_>,
        author: &Author,
    ) -> Result<Record, PolicyError> {
        let mut tx = self.storage.begin_changes().await?;
        let before = self.current(tx.as_mut(), namespace).await?;
        let mut rows = tx.policies(namespace).await?;
        let row = self.next_row(namespace, change, author, &rows)?;
        match rows.binary_search_by(|known| known.name.cmp(&row.name)) {
            Ok(at) => rows.splice(at..=at, [row.clone()]).for_each(drop),
            Err(at) => rows.insert(at, row.clone()),
        }
        let generation = before.generation() + 1;
        let set = SetRow {
            namespace: namespace.clone(),
            generation,
            seal: self.seal_set(namespace, generation, &rows),
        };
        let after = self.load(namespace, Some(set.clone()), &rows, Some(&before));
        let after = Arc::new(after.map_err(|error| error.told_to_author_of(&row.name))?);
        tx.insert_policy(&row).await?;
        tx.put_policy_set(&set).await?;
        tx.note(&entry(namespace, change.kind(), &row, author))
            .await?;
        tx.commit().await?;
        self.remember(namespace, &after);
        let stored = after
            .records
            .iter()
            .find(|record| record.document.name == row.name);
        stored.cloned().ok_or(PolicyError::NotFound)
    }

    fn next_row(
        &self,
        namespace: &Namespace,
        change: &Change<'_>,
        author: &Author,
        rows: &[PolicyRow],
    ) -> Result<PolicyRow, PolicyError> {
        let name = change.name();
        let newest = rows.iter().find(|row| row.name == *name);
        let (version, document) = match (change, newest) {
            (Change::Create(_), Some(_)) => return Err(PolicyError::Exists),
            (Change::Create(_), None) if rows.len() >= MOST => {
                return Err(Invalid::new("name", "one of at most 10,000 policies").into());
            }
            (Change::Create(document), None) => (1, json(document)?),
            (Change::Update(document, expected), Some(newest)) => {
                (following(newest, *expected)?, json(document)?)
            }
            (Change::Retire(_, expected), Some(newest)) => {
                if newest.retired {
                    return Err(PolicyError::Retired);
                }
                (following(newest, *expected)?, newest.document.clone())
            }
            (_, None) => return Err(PolicyError::NotFound),
        };
        let mut row = PolicyRow {
            namespace: namespace.clone(),
            name: name.clone(),
            version,
            document,
            retired: matches!(change, Change::Retire(..)),
            author: author.agent.clone(),
            at: author.seconds(),
            seal: Mac([0; 32]),
        };
        row.seal = self.seal(&row);
        Ok(row)
    }
}

fn json(document: &Document) -> Result<String, PolicyError> {
    serde_json::to_string(document).map_err(PolicyError::engine)
}

/// The version after the newest, if that is the one that was expected.
fn following(newest: &PolicyRow, expected: Option<u32>) -> Result<u32, PolicyError> {
    if expected.is_some_and(|expected| expected != newest.version) {
        return Err(PolicyError::VersionChanged(newest.version));
    }
    Ok(newest.version.saturating_add(1))
}

fn entry(namespace: &Namespace, kind: Kind, row: &PolicyRow, author: &Author) -> Entry {
    let mut entry = Entry::new(author.at, kind, Verdict::Succeeded).by(&author.agent);
    entry.namespace = Some(namespace.clone());
    entry.subject = Some(Subject::new(SubjectKind::Policy, reference(row)));
    entry.note = author.note.clone();
    entry
}
