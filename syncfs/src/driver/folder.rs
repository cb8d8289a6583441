//! [`Folder`]: the handle that programs hold.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    Config, Conflict, DeviceId, Digest, Event, FenceError, FlushError, FolderId, OpenError, QueryError,
    ScanError, ScanReport, Status, Summary, SyncError, Token, WaitError,
};

/// A folder that is open.
#[derive(Clone)]
pub struct Folder {
    shared: Arc<Shared>,
}

struct Shared {
    device: DeviceId,
    status: watch::Receiver<Status>,
    events: broadcast::Sender<Event>,
    commands: mpsc::Sender<Command>,
}

pub(crate) enum Command {
    Scan(oneshot::Sender<Result<ScanReport, ScanError>>),
}

#[allow(missing_docs, unused)]
impl Folder {
    pub async fn init(root: impl AsRef<Path>) -> Result<DeviceId, OpenError> {
        Err(OpenError::NotFound(root.as_ref().to_owned()))
    }
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Err(OpenError::NotFound(config.root))
    }
    pub async fn create(config: Config) -> Result<Self, OpenError> {
        Err(OpenError::NotFound(config.root))
    }
    pub fn device(&self) -> DeviceId {
        self.shared.device
    }
    pub fn folder(&self) -> Option<FolderId> {
        self.shared.status.borrow().folder
    }
    pub async fn sync<S>(&self, stream: S, expect: Option<DeviceId>) -> Result<Summary, SyncError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Err(SyncError::Closed)
    }
    pub async fn scan(&self) -> Result<ScanReport, ScanError> {
        Err(ScanError::Closed)
    }
    pub async fn flush(&self) -> Result<Token, FlushError> {
        Err(FlushError::Closed)
    }
    pub async fn wait(&self, token: &Token, peers: &[DeviceId], timeout: Duration) -> Result<(), WaitError> {
        Err(WaitError::Closed)
    }
    pub async fn reached(&self, token: &Token, timeout: Duration) -> Result<(), WaitError> {
        Err(WaitError::Closed)
    }
    pub async fn digest(&self) -> Result<Digest, QueryError> {
        Err(QueryError::Closed)
    }
    pub async fn hold(&self, epoch: u64) -> Result<(), FenceError> {
        Err(FenceError::Closed)
    }
    pub async fn follow(&self) -> Result<(), FenceError> {
        Err(FenceError::Closed)
    }
    pub fn epoch(&self) -> u64 {
        self.shared.status.borrow().epoch
    }
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, QueryError> {
        Err(QueryError::Closed)
    }
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }
    pub async fn close(self) {}
}
