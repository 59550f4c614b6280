//! The vault: deposit, redeem, lease, revoke.
//!
//! Tokens come in as [`secrecy::SecretString`], lie encrypted under a data key per tree, and leave
//! only through [`Vault::redeem`]. The rules live here; storage is declared as [`Storage`] and
//! implemented in `store`. Every change is one transaction with its audit entry in it.
//!
//! What guards the door: [`Vault::redeem`] turns the presented text into a
//! [`xylem_grant::VerifiedGrant`], the claims into [`ConfirmedClaims`] that only a [`ClaimCheck`]
//! can produce, and, inside the transaction that writes the lease, the tree's own row into a
//! [`xylem_policy::Permit`]. The function that writes a lease takes all three.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod claims;
mod clock;
mod credential;
mod deposit;
mod derived;
mod error;
mod exclusion;
mod issue;
mod keys;
mod redeem;
mod restore;
mod reveal;
mod revoke;
mod rewrap;
mod rows;
mod slotless;
mod status;
mod storage;
mod tree;
mod vault;
mod view;

pub use claims::{ClaimCheck, ClaimError, ClaimRefusal, Claims, ConfirmedClaims, Lineage};
pub use clock::{Clock, SystemClock};
pub use credential::{
    Asker, Binding, BindingRow, Copied, CopyStatus, Credential, CredentialMark, CredentialRow,
    CredentialRows, CredentialStatus, CredentialVersion, CredentialVersionRow, Fruitless,
    NewCredential, NewSource, NotObtained, OAuth, OAuthClient, OAuthGrant, Provided, Removal,
    Renewal, Rotated, Rotation, Source, SourceRow, Supply, Turn, VersionRevocation,
};
pub use deposit::{
    Audiences, Deposit, Deposited, MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, TakeIn, Target,
};
pub use derived::Room;
pub use error::{Place, Refusal, VaultError};
pub use exclusion::{ExcludedBy, Exclusion, SelectedBy, Selection};
pub use issue::RotatedIssuer;
pub use keys::{KeyError, KeyProvider, KeyRing};
pub use redeem::{CallEnd, MAX_LEASE, Redeemed, Redemption, Released, Worker};
pub use restore::is_attested;
pub use reveal::{Revealed, Revelation};
pub use revoke::{Revocation, Revoked};
pub use rewrap::{OlderKey, Rewrap, Rewrapped, Unopened, check_wrapped};
pub use slotless::{OwnToken, Slotless};
pub use status::VersionStatus;
pub use storage::{
    EpochRow, EpochState, KeyOwner, KeyRow, LeaseRow, Leased, OpenLeases, OwnedKey, Purpose,
    SecretRow, SingleCall, SlotRow, SlotUse, Storage, StorageError, ToolFacts, Transaction,
    TreeRow, VersionRow, Wraps,
};
pub use tree::{Bound, NewTree, Stopping};
pub use vault::Vault;
pub use view::{BadId, RequestId, SecretId, StartId, Tree, TreeState, VersionInfo, VersionState};
