//! Content-addressed folder sync.
pub mod chunk;
mod config;
pub mod device;
mod digest;
pub mod disk;
#[cfg(feature = "driver")]
pub mod driver;
pub mod engine;
mod error;
pub mod fence;
pub mod hash;
pub mod index;
pub mod path;
pub mod reconcile;
pub mod record;
mod status;
mod token;
pub mod wire;

pub use config::Config;
pub use device::{DeviceId, FolderId, IndexId};
pub use digest::{Digest, Digester};
#[cfg(feature = "driver")]
pub use driver::Folder;
pub use error::{
    FenceError, FlushError, Lag, OpenError, QueryError, ScanError, StoreError, SyncError, Violation,
    WaitError,
};
pub use hash::ContentHash;
pub use path::{PathError, RelPath};
pub use status::{Conflict, Event, PeerStatus, Problem, Role, ScanReport, Status, Summary};
pub use token::Token;
