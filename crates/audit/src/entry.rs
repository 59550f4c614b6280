//! What an entry says.

use crate::{Label, Subject, SubjectKind, codes::codes};
use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr, time::SystemTime};
use xylem_ids::{
    AgentId, AuditId, Fingerprint, LeaseId, Namespace, Order, RunId, Slot, ToolName, TreeId,
    WorkflowId,
};

codes!(
    /// What an entry is about.
    Kind {
        /// A tree got its record, before or after its root started.
        TreeOpened = "tree_opened",
        /// A starting tree was bound to its root's first run.
        TreeBound = "tree_bound",
        /// A start that did not happen was given up and its deposit destroyed.
        TreeAbandoned = "tree_abandoned",
        /// A tree was stopped and its tokens revoked.
        TreeStopped = "tree_stopped",
        /// The tools a tree may call were changed.
        ToolsAllowed = "tools_allowed",
        /// A token was deposited with authentication.
        Deposit = "deposit",
        /// An earlier version was deposited again as the next one.
        Rollback = "rollback",
        /// A grant was issued again with a later expiry.
        Reissue = "reissue",
        /// A node asked for a token.
        Redeem = "redeem",
        /// How the call that a redemption was for ended.
        Outcome = "outcome",
        /// A version was revoked.
        Revoke = "revoke",
        /// A version was revoked although something still relied on it.
        ForcedRevoke = "forced_revoke",
        /// A node was excluded from a slot.
        Exclude = "exclude",
        /// An exclusion was lifted.
        Include = "include",
        /// A raw token came in through a signal and therefore lies in a history.
        Exposure = "exposure",
        /// Signals that a node rejected, counted.
        SignalsRejected = "signals_rejected",
        /// A new issuer key signs, and the old one is retired.
        IssuerRotated = "issuer_rotated",
        /// Stored keys were wrapped anew, under the current key-encryption key.
        KeysRewrapped = "keys_rewrapped",
        /// A stored row is not what was written.
        Tampered = "tampered",
        /// A new epoch began.
        EpochRaised = "epoch_raised",
        /// A copy of the database was made.
        BackedUp = "backed_up",
        /// Somebody confirmed after a restore that what was revoked since the backup is revoked again.
        RestoreConfirmed = "restore_confirmed",
        /// A tool was registered or replaced.
        ToolRegistered = "tool_registered",
        /// A new version of a tool was proposed.
        ToolUpdated = "tool_updated",
        /// The definition of a tool was approved.
        ToolApproved = "tool_approved",
        /// A proposed definition was turned down.
        ToolRejected = "tool_rejected",
        /// A proposed definition was taken back.
        ToolReverted = "tool_reverted",
        /// A tool was retired.
        ToolRetired = "tool_retired",
        /// A retired tool was deleted.
        ToolDeleted = "tool_deleted",
        /// The control plane serves an installation that declares a single operator.
        SingleOperator = "single_operator",
        /// A worker registered what its workflow types declare.
        DefinitionsRegistered = "definitions_registered",
        /// An agent was created.
        AgentCreated = "agent_created",
        /// What an agent may do, or what kind of identity it is, was changed.
        AgentUpdated = "agent_updated",
        /// An agent was retired, for good.
        AgentRetired = "agent_retired",
        /// Everything that was known of an agent was handed out.
        AgentDataExported = "agent_data_exported",
        /// What was known of a retired agent was erased, and the key of its personal data destroyed.
        AgentErased = "agent_erased",
        /// A tree got another owner.
        TreeTransferred = "tree_transferred",
        /// An API key was replaced by another one.
        KeyRotated = "key_rotated",
        /// An API key was exchanged for an access token.
        TokenIssued = "token_issued",
        /// An access token was revoked.
        TokenRevoked = "token_revoked",
        /// Somebody registered, or accepted an invitation.
        Registered = "registered",
        /// Somebody was invited to choose a password.
        AgentInvited = "agent_invited",
        /// Somebody signed in with a password.
        SignedIn = "signed_in",
        /// A session was ended.
        SessionEnded = "session_ended",
        /// A session was ended because one of its refresh tokens came back, or from another client.
        SessionReused = "session_reused",
        /// A password was changed; sessions that were opened with the one before have ended.
        PasswordChanged = "password_changed",
        /// A second factor was enrolled.
        SecondFactorEnrolled = "second_factor_enrolled",
        /// A second factor was removed by its owner.
        SecondFactorRemoved = "second_factor_removed",
        /// A second factor was taken from somebody who has lost it, and the password with it.
        SecondFactorReset = "second_factor_reset",
        /// A recovery code was shown instead of a one-time code.
        RecoveryCodeUsed = "recovery_code_used",
        /// Recovery codes were made anew: the ones before are good no more.
        RecoveryCodesRenewed = "recovery_codes_renewed",
        /// The next key that signs access tokens was made.
        SigningKeyMade = "signing_key_made",
        /// An API key was created.
        KeyCreated = "key_created",
        /// An API key was revoked.
        KeyRevoked = "key_revoked",
        /// A stored credential was made.
        CredentialCreated = "credential_created",
        /// A stored credential got its next version.
        CredentialRotated = "credential_rotated",
        /// A provider refused to give a stored credential's next value.
        CredentialRefused = "credential_refused",
        /// A version of a stored credential was revoked.
        CredentialRevoked = "credential_revoked",
        /// A stored credential was removed and its key destroyed.
        CredentialRemoved = "credential_removed",
        /// Trees of a workflow type start with a stored credential.
        CredentialBound = "credential_bound",
        /// They do no more.
        CredentialUnbound = "credential_unbound",
        /// The log was exported.
        AuditExported = "audit_exported",
        /// The oldest entries of the log were written to an archive.
        AuditArchived = "audit_archived",
        /// Entries that are in an archive were dropped from the log.
        AuditDropped = "audit_dropped",
        /// Calls of an agent that was authenticated, counted per key, address and minute.
        Authenticated = "authenticated",
        /// A policy was written.
        PolicyCreated = "policy_created",
        /// A policy was changed.
        PolicyUpdated = "policy_updated",
        /// A policy holds no more.
        PolicyRetired = "policy_retired",
        /// Somebody asked for access.
        AccessRequested = "access_requested",
        /// Access was approved.
        AccessApproved = "access_approved",
        /// Access was rejected.
        AccessRejected = "access_rejected",
        /// Access was ended before its time, or its request taken back.
        AccessEnded = "access_ended",
        /// The time of an approval is over, or of a request that nobody decided.
        AccessExpired = "access_expired",
        /// Somebody was shown a token, or asked to be.
        TokenRevealed = "token_revealed",
        /// Calls without a valid key, counted per source and minute.
        AuthenticationFailed = "authentication_failed",
        /// Calls by an agent that may not make them.
        PermissionDenied = "permission_denied",
        /// Requests that were not taken: their agent or address made too many.
        RequestsLimited = "requests_limited",
        /// Something that somebody should look at: the reason is the rule that raised it, the numbers
        /// are those that raised it.
        Alert = "alert",
        /// An alert was not received by whoever it was to be sent to.
        AlertUndelivered = "alert_undelivered",
    }
);

codes!(
    /// How it was decided, or how it ended.
    Verdict {
        /// Decided: yes.
        Granted = "granted",
        /// Decided: no.
        Denied = "denied",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended badly.
        Failed = "failed",
    }
);

/// A stable word that says why: 1 to 64 characters of a-z, 0-9 and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// A reason that is written in the source. Text that breaks the rule becomes `unspecified`.
    #[must_use]
    pub fn of(code: &'static str) -> Self {
        if Self::valid(code) {
            Self(Cow::Borrowed(code))
        } else {
            Self(Cow::Borrowed("unspecified"))
        }
    }

    /// A reason that somebody else chose, if it is a code at all.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::valid(text).then(|| Self(Cow::Owned(text.to_owned())))
    }

    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn valid(text: &str) -> bool {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({})", self.0)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What somebody said about what they did: 1 to 500 characters, none of them a control character.
/// Free text, so only people who may operate a tree write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Note(String);

impl Note {
    /// The most characters a note has.
    pub const LONGEST: usize = 500;

    /// Makes a note; `None` where the text is empty, longer than 500 characters or not printable.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = !text.is_empty() && !text.chars().any(char::is_control);
        let short = text.chars().nth(Self::LONGEST).is_none();
        (printable && short).then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One run of one workflow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeRun {
    /// The workflow id.
    pub workflow_id: WorkflowId,
    /// The run id, where a run is meant.
    pub run_id: Option<RunId>,
}

/// One attempt of one activity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Activity {
    id: String,
    attempt: u32,
}

impl Activity {
    /// Names an attempt; `None` where the id is empty, longer than 1,000 bytes or not printable.
    #[must_use]
    pub fn new(id: &str, attempt: u32) -> Option<Self> {
        let printable = (1..=1000).contains(&id.len()) && !id.chars().any(char::is_control);
        printable.then(|| Self {
            id: id.to_owned(),
            attempt,
        })
    }

    /// The activity id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// One entry. [`Entry::new`] fills in what every entry has; the rest is set where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it happened, to the millisecond.
    pub at: SystemTime,
    /// What it is about.
    pub kind: Kind,
    /// How it was decided, or how it ended.
    pub verdict: Verdict,
    /// Who did it; absent where nobody was authenticated.
    pub agent: Option<AgentId>,
    /// For whom it was done: who owns the tree that a worker acts for.
    pub owner: Option<AgentId>,
    /// What an administrative change is about.
    pub subject: Option<Subject>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
    /// The id of the call, as its answer bears it.
    pub request: Option<Label>,
    /// Whether whoever did it had shown a second factor.
    pub second_factor: bool,
    /// The Temporal namespace.
    pub namespace: Option<Namespace>,
    /// The tree; absent while its root has not started.
    pub tree: Option<TreeId>,
    /// The workflow it concerns.
    pub node: Option<NodeRun>,
    /// The activity that asked.
    pub activity: Option<Activity>,
    /// The tool.
    pub tool: Option<ToolName>,
    /// The slot.
    pub slot: Option<Slot>,
    /// The version, as epoch, version and serial.
    pub order: Option<Order>,
    /// The version whose grant was presented, where it is not that version.
    pub presented: Option<Order>,
    /// How long the presented version was superseded, in seconds.
    pub behind_s: Option<u64>,
    /// The token's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// Ties a decision to its outcome.
    pub lease: Option<LeaseId>,
    /// Why.
    pub reason: Option<Reason>,
    /// The policy that decided.
    pub policy: Option<Label>,
    /// What the agent said about it.
    pub note: Option<Note>,
    /// The HTTP status of the call.
    pub status: Option<u16>,
    /// How long the call took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// How many bytes the call sent.
    pub bytes_out: Option<u64>,
    /// How many bytes it received.
    pub bytes_in: Option<u64>,
    /// The numbers behind it, by name: what raised an alert.
    pub numbers: BTreeMap<Reason, u64>,
    /// The first and the last entry that it is about.
    pub about: Option<(u64, u64)>,
    /// How many events this entry stands for.
    pub count: u64,
}

impl Entry {
    /// An entry that stands for one event.
    #[must_use]
    pub fn new(at: SystemTime, kind: Kind, verdict: Verdict) -> Self {
        Self {
            at,
            kind,
            verdict,
            agent: None,
            owner: None,
            subject: None,
            address: None,
            request: None,
            second_factor: false,
            namespace: None,
            tree: None,
            node: None,
            activity: None,
            tool: None,
            slot: None,
            order: None,
            presented: None,
            behind_s: None,
            fingerprint: None,
            lease: None,
            reason: None,
            policy: None,
            note: None,
            status: None,
            duration_ms: None,
            bytes_out: None,
            bytes_in: None,
            numbers: BTreeMap::new(),
            about: None,
            count: 1,
        }
    }

    /// The same entry, done by this agent.
    #[must_use]
    pub fn by(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// The same entry, about this tree and its namespace.
    #[must_use]
    pub fn of_tree(mut self, tree: &TreeId) -> Self {
        self.namespace = Some(tree.namespace.clone());
        self.tree = Some(tree.clone());
        self
    }

    /// The same entry, about this subject.
    #[must_use]
    pub fn regarding(mut self, kind: SubjectKind, id: impl fmt::Display) -> Self {
        self.subject = Some(Subject::new(kind, id));
        self
    }

    /// The same entry, of the same call as another one: from there, and with its id.
    #[must_use]
    pub fn during(mut self, other: &Self) -> Self {
        self.address = other.address;
        self.request.clone_from(&other.request);
        self
    }

    /// The same entry, with a reason.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(Reason::of(reason));
        self
    }
}

/// An entry in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log as text: 1 for the first entry, and no number is left out.
    pub id: AuditId,
    /// What it says.
    pub entry: Entry,
    /// Whether address and note stood here, and cannot be read any more: their key was destroyed.
    pub erased: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_distinct_and_read_back() {
        let codes: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(*kind));
        }
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::from_code(verdict.code()), Some(*verdict));
        }
        assert_eq!(Kind::from_code("else"), None);
    }

    #[test]
    fn a_reason_is_a_code_and_cannot_carry_a_token() {
        assert_eq!(Reason::of("refused_401").as_str(), "refused_401");
        assert_eq!(Reason::of("Free Text").as_str(), "unspecified");
        assert!(Reason::parse("Bearer ghp_Secret").is_none());
        assert!(Reason::parse("").is_none());
        assert!(Reason::parse(&"a".repeat(65)).is_none());
    }

    #[test]
    fn a_note_is_short_and_printable() {
        let said = "leaked in build 7, see INC-12 (é)";
        assert_eq!(
            Note::new(said)
                .map(|note| note.as_str().to_owned())
                .as_deref(),
            Some(said)
        );
        assert!(Note::new(&"é".repeat(Note::LONGEST)).is_some());
        for bad in ["", "a\nb", "a\u{1b}[2J", &"a".repeat(Note::LONGEST + 1)] {
            assert!(Note::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_activity_has_a_printable_id() {
        assert!(Activity::new("7", 1).is_some());
        assert!(Activity::new("", 1).is_none());
        assert!(Activity::new("a\nb", 1).is_none());
    }
}
