//! Which role may make which call. A new rpc does not compile without a line here.

use xylem_proto::v1::Rpc;
use xylem_registry::Role::{self, Admin, Operator, Service, Worker};

/// The roles that may make a call. A [`Role::Service`] reaches the trees of its own agent only.
pub(crate) fn roles(rpc: Rpc) -> &'static [Role] {
    match rpc {
        Rpc::StartTree
        | Rpc::ListTrees
        | Rpc::GetTree
        | Rpc::WatchTree
        | Rpc::StopTree
        | Rpc::SetToken
        | Rpc::RotateToken
        | Rpc::GetTokenStatus
        | Rpc::ReissueToken => &[Admin, Operator, Service],
        Rpc::AllowTools
        | Rpc::RevokeToken
        | Rpc::RollbackToken
        | Rpc::GetCredential
        | Rpc::ListCredentials
        | Rpc::ListAudit
        | Rpc::TailAudit
        | Rpc::VerifyAudit => &[Admin, Operator],
        Rpc::CreateCredential
        | Rpc::RotateCredential
        | Rpc::RevokeCredential
        | Rpc::RemoveCredential
        | Rpc::BindCredential
        | Rpc::UnbindCredential
        | Rpc::RegisterTool
        | Rpc::CreateAgent
        | Rpc::ListAgents
        | Rpc::CreateApiKey
        | Rpc::ListApiKeys
        | Rpc::RevokeApiKey => &[Admin],
        Rpc::Redeem
        | Rpc::Release
        | Rpc::TakeIn
        | Rpc::Issuers
        | Rpc::Select
        | Rpc::RegisterDefinitions
        | Rpc::AppendAudit => &[Worker],
        Rpc::GetTool | Rpc::ListTools | Rpc::GetStatus => &Role::ALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// The table as people review it. Change it with the code above, and say why in the commit.
    const GOLDEN: &str = include_str!("access.golden");

    #[test]
    fn the_table_is_the_one_that_was_reviewed() {
        let mut table = String::new();
        for rpc in Rpc::ALL {
            let allowed = roles(*rpc);
            let cells: Vec<_> = Role::ALL
                .iter()
                .map(|role| {
                    if allowed.contains(role) {
                        role.code()
                    } else {
                        "-"
                    }
                })
                .collect();
            let _ = writeln!(table, "{:<20} {}", rpc.name(), cells.join(" "));
        }
        assert_eq!(table, GOLDEN);
    }
}
