//! The local door to a running daemon: one JSON request and one JSON answer a connection, on a Unix socket.
//!
//! Request and answer are one line each, so `nc -U` speaks it too. The socket has mode 0600 before it accepts
//! anybody. Whether a daemon lives is decided by a lock on `SOCKET.lock`, which the kernel lets go of when the
//! process ends however it ends: a socket file left by a killed daemon is replaced, a live one is an error.
//! Requests are bounded by [`MAX_REQUEST_BYTES`] and [`REQUEST_DEADLINE`], connections by [`MAX_CONNECTIONS`].

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;

use crate::daemon::Failure;

/// The longest request that is read.
pub const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// The longest answer that a client reads.
pub const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// How many requests are served at once; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to say its request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// `sun_path` holds 108 bytes with its final NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Why the control socket could not be made, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process serves this socket.
    #[error("{} is served by a process that is running: stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    /// Nobody serves this socket.
    #[error("nothing answers at {}: is the daemon running?", .0.display())]
    NotRunning(PathBuf),
    /// Nothing says where control sockets belong.
    #[error("XDG_RUNTIME_DIR is not set: say with --control where the control socket is")]
    NoRunDirectory,
    /// More than one socket could be meant.
    #[error("{} holds several control sockets: choose one with --control", .0.display())]
    Several(PathBuf),
    /// Something else bears the socket's name.
    #[error("{} is not a socket and is left as it is: choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The file system or the socket refused.
    #[error("control socket {}: cannot {doing}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon did what it could and said why that was not enough.
    #[error("{0}")]
    Refused(String),
    /// The other side does not speak this protocol.
    #[error("{} did not answer in this program's form ({what}): is it another version?", path.display())]
    Garbled {
        /// Where.
        path: PathBuf,
        /// What was wrong with it.
        what: String,
    },
    /// No answer in time.
    #[error("{} gave no answer within {} s", path.display(), limit.as_secs())]
    TimedOut {
        /// Where.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<A> {
    Ok(A),
    Error(String),
}

/// A bound control socket. Dropping it removes the socket file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    place: Place,
    // Held for as long as this process serves the socket.
    _lock: File,
}

impl ControlSocket {
    /// Binds `path`, whose directory must exist. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<ControlSocket, ControlError> {
        let io = |doing| move |source| ControlError::Io { doing, path: path.to_owned(), source };
        let place = Place::of(path)?;
        let mut lock_name = path.as_os_str().to_owned();
        lock_name.push(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock_name);
        let lock = lock.map_err(io("create its lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ControlError::AlreadyRunning(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io("lock its lock file")(source)),
        }
        match std::fs::symlink_metadata(place.reach()) {
            Ok(old) if !old.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_owned())),
            Ok(_) => std::fs::remove_file(place.reach()).map_err(io("remove the old socket"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("look at the old socket")(error)),
        }
        let socket = UnixSocket::new_stream().map_err(io("create a socket"))?;
        socket.bind(place.reach()).map_err(io("bind"))?;
        // Nobody can connect before `listen`, so nobody ever meets the socket with a wider mode.
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(place.reach(), private).map_err(io("make the socket private"))?;
        let listener = socket.listen(MAX_CONNECTIONS as u32).map_err(io("listen"))?;
        Ok(ControlSocket { listener, place, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Answers requests until dropped. A failed answer is told to the client, never logged as ours.
    pub async fn serve<Q, A, F, W>(self, answer: F)
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Fn(Q) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Failure>> + Send + 'static,
    {
        let answer = Arc::new(answer);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors: let others end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &*answer).await {
                    tracing::debug!(%error, "a control client went away");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // What is left behind is replaced at the next start.
        let _ = std::fs::remove_file(self.place.reach());
    }
}

async fn converse<Q, A, F, W>(stream: UnixStream, answer: &F) -> io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Fn(Q) -> W,
    W: Future<Output = Result<A, Failure>>,
{
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut bounded = (&mut stream).take(MAX_REQUEST_BYTES + 1);
    let said = tokio::time::timeout(REQUEST_DEADLINE, bounded.read_until(b'\n', &mut line)).await;
    let answer = match said {
        Err(_) => Answer::Error(format!("no request within {} s", REQUEST_DEADLINE.as_secs())),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) if line.len() as u64 > MAX_REQUEST_BYTES => {
            Answer::Error(format!("a request has at most {MAX_REQUEST_BYTES} bytes"))
        }
        Ok(Ok(_)) => match serde_json::from_slice(&line) {
            Err(error) => Answer::Error(format!("not a request of this daemon: {error}")),
            Ok(request) => match answer(request).await {
                Ok(value) => Answer::Ok(value),
                Err(failure) => Answer::Error(failure.to_string()),
            },
        },
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await?;
    stream.get_mut().shutdown().await
}

/// Asks the daemon behind `path`; `limit` bounds the whole exchange.
pub async fn ask<A: DeserializeOwned>(
    path: &Path,
    request: &impl Serialize,
    limit: Duration,
) -> Result<A, ControlError> {
    match tokio::time::timeout(limit, exchange(path, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ControlError::TimedOut { path: path.to_owned(), limit }),
    }
}

async fn exchange<A: DeserializeOwned>(path: &Path, request: &impl Serialize) -> Result<A, ControlError> {
    let io = |doing| move |source| ControlError::Io { doing, path: path.to_owned(), source };
    let garbled = |what: String| ControlError::Garbled { path: path.to_owned(), what };
    let place = Place::of(path)?;
    let mut stream = match UnixStream::connect(place.reach()).await {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ControlError::NotRunning(path.to_owned())
                }
                _ => io("connect")(error),
            });
        }
    };
    let mut text = serde_json::to_vec(request).map_err(|error| garbled(error.to_string()))?;
    text.push(b'\n');
    stream.write_all(&text).await.map_err(io("send the request"))?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut answer).await.map_err(io("read the answer"))?;
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        return Err(garbled(format!("more than {MAX_ANSWER_BYTES} bytes")));
    }
    match serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()))? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(sentence) => Err(ControlError::Refused(sentence)),
    }
}

/// Where a program's control sockets are by default: `/run/PROGRAM` for root, else `$XDG_RUNTIME_DIR/PROGRAM`. Made,
/// private, if it is not there.
pub fn run_directory(program: &str) -> Result<PathBuf, ControlError> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let place = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if root => PathBuf::from("/run"),
        Some(user) if !user.is_empty() => PathBuf::from(user),
        _ => return Err(ControlError::NoRunDirectory),
    };
    let path = place.join(program);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| ControlError::Io { doing: "make its directory", path: path.clone(), source })?;
    Ok(path)
}

/// The one socket in a directory, for a question that names none.
pub fn only_socket(directory: &Path) -> Result<PathBuf, ControlError> {
    let io = |source| ControlError::Io { doing: "list its directory", path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_socket() {
            found.push(entry.path());
        }
    }
    match found.len() {
        0 => Err(ControlError::NotRunning(directory.to_owned())),
        1 => Ok(found.remove(0)),
        _ => Err(ControlError::Several(directory.to_owned())),
    }
}

/// A socket's path, reachable however long it is: one beyond the limit of `sun_path` is entered through the open
/// directory that holds it.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    directory: Option<File>,
}

impl Place {
    fn of(path: &Path) -> Result<Place, ControlError> {
        let directory = if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
            let parent = path.parent().unwrap_or(Path::new("."));
            Some(File::open(parent).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => ControlError::NotRunning(path.to_owned()),
                _ => ControlError::Io { doing: "open its directory", path: path.to_owned(), source },
            })?)
        } else {
            None
        };
        Ok(Place { path: path.to_owned(), directory })
    }

    fn reach(&self) -> PathBuf {
        match &self.directory {
            Some(directory) => {
                let name = self.path.file_name().unwrap_or(OsStr::new("control.sock"));
                PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
            }
            None => self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn serve_doubling(path: &Path) -> tokio::task::JoinHandle<()> {
        let socket = ControlSocket::bind(path).unwrap();
        tokio::spawn(socket.serve(|number: u64| async move {
            number.checked_mul(2).ok_or_else(|| Failure::new("too large to double"))
        }))
    }

    #[tokio::test]
    async fn a_request_is_answered_and_a_refusal_keeps_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = serve_doubling(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask::<u64>(&path, &21, LIMIT).await.unwrap(), 42);
        let refused = ask::<u64>(&path, &u64::MAX, LIMIT).await.unwrap_err();
        assert_eq!(refused.to_string(), "too large to double");
        let foreign = ask::<u64>(&path, &"what?", LIMIT).await.unwrap_err();
        assert!(matches!(foreign, ControlError::Refused(_)), "{foreign}");
        server.abort();
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_dead_ones_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = serve_doubling(&path);
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::AlreadyRunning(_))));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(matches!(ask::<u64>(&path, &1, LIMIT).await, Err(ControlError::NotRunning(_))));
        // What kill -9 leaves: the file, and nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(ask::<u64>(&path, &1, LIMIT).await, Err(ControlError::NotRunning(_))));
        let server = serve_doubling(&path);
        assert_eq!(ask::<u64>(&path, &4, LIMIT).await.unwrap(), 8);
        server.abort();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("diary");
        std::fs::write(&path, "dear diary").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"dear diary");
    }

    #[tokio::test]
    async fn a_path_longer_than_the_kernel_allows_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("control.sock");
        let server = serve_doubling(&path);
        assert_eq!(ask::<u64>(&path, &5, LIMIT).await.unwrap(), 10);
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_request_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = serve_doubling(&path);
        let padded = |length: usize| format!("{}7", " ".repeat(length - 1));
        for (length, allowed) in [(MAX_REQUEST_BYTES as usize, true), (MAX_REQUEST_BYTES as usize + 1, false)]
        {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(padded(length).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer == "{\"ok\":14}\n", allowed, "{answer}");
        }
        server.abort();
    }
}
