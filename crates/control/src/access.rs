//! Who may make which call, and how far it reaches. A new rpc does not compile without a line here.

use crate::caller::Reach;
use xylem_identity::Principal;
use xylem_ids::{
    Role::{self, Admin, Auditor, PolicyAdmin, ToolPublisher, User, Worker},
    Scope,
};
use xylem_proto::v1::Rpc;

/// What a call takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// A key that is narrowed must have this scope; none is needed to ask who one is.
    pub(crate) scope: Option<Scope>,
    /// The roles that reach everything in the namespace.
    pub(crate) all: &'static [Role],
    /// The roles that reach what is their own: their trees, keys and tools. Another's is not found.
    pub(crate) own: &'static [Role],
}

impl Rule {
    /// How far a call reaches of somebody with these roles; not at all where absent.
    pub(crate) fn reach(&self, principal: &Principal) -> Option<Reach> {
        if principal.has(self.all) {
            Some(Reach::All)
        } else {
            principal.has(self.own).then_some(Reach::Own)
        }
    }
}

/// Every role but that of workers.
const PEOPLE: &[Role] = &[Admin, ToolPublisher, PolicyAdmin, User, Auditor];

pub(crate) const fn rule(rpc: Rpc) -> Rule {
    match rpc {
        Rpc::StartTree | Rpc::StopTree | Rpc::AllowTools => of(Scope::Trees, &[Admin], &[User]),
        // A tree calls with what its owner may call: nobody makes another one the owner of their own.
        Rpc::TransferTree => of(Scope::Trees, &[Admin], &[]),
        Rpc::ListTrees | Rpc::GetTree | Rpc::WatchTree => {
            of(Scope::TreesRead, &[Admin, Auditor], &[User])
        }
        Rpc::SetToken
        | Rpc::RotateToken
        | Rpc::ReissueToken
        | Rpc::RevokeToken
        | Rpc::RollbackToken => of(Scope::Tokens, &[Admin], &[User]),
        Rpc::RevealToken => of(Scope::Tokens, &[Admin], &[User]),
        Rpc::GetTokenStatus => of(Scope::TokensRead, &[Admin, Auditor], &[User]),
        Rpc::RegisterTool | Rpc::ImportTools => of(Scope::Tools, &[], &[ToolPublisher]),
        Rpc::UpdateTool | Rpc::RevertTool | Rpc::RetireTool | Rpc::DeleteTool => {
            of(Scope::Tools, &[Admin], &[ToolPublisher])
        }
        Rpc::ApproveTool | Rpc::RejectTool => of(Scope::Tools, &[Admin, PolicyAdmin], &[]),
        Rpc::GetTool => of(
            Scope::ToolsRead,
            &[Admin, ToolPublisher, PolicyAdmin, Worker, Auditor],
            &[User],
        ),
        Rpc::InviteAgent
        | Rpc::ResetSecondFactor
        | Rpc::CreateAgent
        | Rpc::UpdateAgent
        | Rpc::RetireAgent
        | Rpc::EraseAgent => of(Scope::Agents, &[Admin], &[]),
        Rpc::ListTools | Rpc::ListToolVersions => of(
            Scope::ToolsRead,
            &[Admin, ToolPublisher, PolicyAdmin, Auditor],
            &[User],
        ),
        Rpc::ListUsage => of(Scope::ToolsRead, &[Admin, Auditor], &[ToolPublisher, User]),
        // Whoever may read the log has everybody's entries of it; the rest is for administrators.
        Rpc::ExportAgentData => of(
            Scope::AgentsRead,
            &[Admin],
            &[ToolPublisher, PolicyAdmin, User, Worker, Auditor],
        ),
        Rpc::GetAgent => of(
            Scope::AgentsRead,
            &[Admin, PolicyAdmin, Auditor],
            &[ToolPublisher, User, Worker],
        ),
        Rpc::ListAgents => of(Scope::AgentsRead, &[Admin, PolicyAdmin, Auditor], &[]),
        Rpc::CreateApiKey => of(Scope::Keys, &[Admin], &[ToolPublisher, PolicyAdmin, User]),
        Rpc::RotateApiKey | Rpc::RevokeApiKey => of(
            Scope::Keys,
            &[Admin],
            &[ToolPublisher, PolicyAdmin, User, Worker, Auditor],
        ),
        Rpc::ListApiKeys => of(
            Scope::KeysRead,
            &[Admin, Auditor],
            &[ToolPublisher, PolicyAdmin, User, Worker],
        ),
        Rpc::GetCredential | Rpc::ListCredentials => {
            of(Scope::CredentialsRead, &[Admin, Auditor], &[ToolPublisher])
        }
        Rpc::RotateCredential | Rpc::RenewCredential => {
            of(Scope::Credentials, &[Admin], &[ToolPublisher])
        }
        Rpc::CreateCredential
        | Rpc::RevokeCredential
        | Rpc::RemoveCredential
        | Rpc::BindCredential
        | Rpc::UnbindCredential => of(Scope::Credentials, &[Admin], &[]),
        Rpc::ListAlerts | Rpc::ListAudit | Rpc::TailAudit | Rpc::ExportAudit | Rpc::VerifyAudit => {
            of(Scope::AuditRead, &[Admin, Auditor], &[])
        }
        Rpc::CreatePolicy | Rpc::UpdatePolicy | Rpc::RetirePolicy => {
            of(Scope::Policies, &[Admin, PolicyAdmin], &[])
        }
        Rpc::GetPolicy | Rpc::ListPolicies | Rpc::GetPolicySchema => {
            of(Scope::PoliciesRead, &[Admin, PolicyAdmin, Auditor], &[])
        }
        Rpc::RequestAccess | Rpc::EndAccess => {
            of(Scope::Access, &[Admin, PolicyAdmin], &[ToolPublisher, User])
        }
        Rpc::ListAccessRequests | Rpc::GetAccessRequest => of(
            Scope::Access,
            &[Admin, PolicyAdmin, Auditor],
            &[ToolPublisher, User],
        ),
        Rpc::DecideAccess => of(Scope::Approve, &[Admin, PolicyAdmin], &[]),
        Rpc::CheckAccess => of(Scope::Access, &[Admin, PolicyAdmin], &[ToolPublisher, User]),
        Rpc::Redeem
        | Rpc::Release
        | Rpc::TakeIn
        | Rpc::Issuers
        | Rpc::Select
        | Rpc::RegisterDefinitions
        | Rpc::AppendAudit => of(Scope::Work, &[Worker], &[]),
        Rpc::ChangePassword
        | Rpc::EnrolSecondFactor
        | Rpc::ConfirmSecondFactor
        | Rpc::RenewRecoveryCodes
        | Rpc::RemoveSecondFactor
        | Rpc::ListSessions
        | Rpc::EndSession => of(Scope::Account, &[], PEOPLE),
        Rpc::BackUp
        | Rpc::ConfirmRestore
        | Rpc::ArchiveAudit
        | Rpc::RotateSigningKey
        | Rpc::RotateIssuerKey
        | Rpc::RewrapKeys => of(Scope::Vault, &[Admin], &[]),
        Rpc::GetStatus => Rule {
            scope: None,
            all: &Role::ALL,
            own: &[],
        },
    }
}

const fn of(scope: Scope, all: &'static [Role], own: &'static [Role]) -> Rule {
    Rule {
        scope: Some(scope),
        all,
        own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// The table as people review it. Change it with the code above, and say why in the commit. The
    /// columns are the scope and the roles in their order: admin, tool_publisher, policy_admin, user,
    /// worker, auditor.
    const GOLDEN: &str = include_str!("access.golden");

    fn table() -> String {
        let mut table = String::new();
        for rpc in Rpc::ALL {
            let Rule { scope, all, own } = rule(*rpc);
            let cell = |role: &Role| {
                let reach = [("all", all), ("own", own)];
                let found = reach.iter().find(|(_, roles)| roles.contains(role));
                found.map_or("-", |(word, _)| word)
            };
            let cells: Vec<_> = Role::ALL.iter().map(cell).collect();
            let scope = scope.map_or("-", Scope::code);
            let _ = writeln!(table, "{:<20} {scope:<16} {}", rpc.name(), cells.join(" "));
        }
        table
    }

    #[test]
    fn the_table_is_the_one_that_was_reviewed() {
        assert_eq!(table(), GOLDEN, "\n{}", table());
    }

    #[test]
    fn an_auditor_looks_and_looks_after_its_own_account() {
        for rpc in Rpc::ALL {
            let Rule { scope, all, own } = rule(*rpc);
            let changes = rpc.http().0 != "GET";
            assert!(
                !changes || !all.contains(&Auditor) || *rpc == Rpc::VerifyAudit,
                "{rpc:?}"
            );
            assert!(
                !changes
                    || !own.contains(&Auditor)
                    || scope == Some(Scope::Account)
                    || matches!(rpc, Rpc::RotateApiKey | Rpc::RevokeApiKey),
                "{rpc:?}"
            );
        }
    }

    #[test]
    fn what_only_workers_do_nobody_else_does() {
        for rpc in Rpc::ALL {
            let Rule { scope, all, own } = rule(*rpc);
            if scope == Some(Scope::Work) {
                assert_eq!((all, own), ([Worker].as_slice(), [].as_slice()), "{rpc:?}");
            }
        }
    }
}
