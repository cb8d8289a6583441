//! What the tasks of a service wrote.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::super::convert::missing;
use super::super::json::text;
use super::Swarm;
use crate::error::{Kind, SwarmError};
use crate::logs::{LogLine, LogReader};

/// Which part of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Only the last lines of each task, so many; all if `None`.
    pub tail: Option<u64>,
    /// Only what was written since.
    pub since: Option<SystemTime>,
    /// Go on with what is written from now on, until the service is removed.
    pub follow: bool,
}

/// The lines of a log, one after the other; those of different tasks come as the engine has them.
#[derive(Debug)]
pub struct Logs {
    body: Incoming,
    reader: LogReader,
    lines: VecDeque<LogLine>,
}

impl Logs {
    /// The next line; `None` at the end. Can be dropped at any time without losing one.
    ///
    /// # Errors
    /// When the engine goes away or what it sends is no log.
    pub async fn next(&mut self) -> Result<Option<LogLine>, SwarmError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let unreachable = |source| SwarmError::Unreachable { source };
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreachable(error.into())),
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.lines = self.reader.read(&bytes).map_err(|error| unreachable(error.into()))?.into();
                }
            }
        }
    }
}

impl Swarm {
    /// What the tasks of a service, given by name or ID, wrote: also those that have ended, as far as the engines keep it.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`]; a log driver that keeps nothing to be read is
    /// [`SwarmError::Engine`].
    pub async fn logs(&self, service: &str, options: &LogOptions) -> Result<Logs, SwarmError> {
        let found = self.ask_about(Kind::Service, service).await?;
        let id = text(&found["ID"]).ok_or(missing("service ID"))?;
        let has_terminal = found["Spec"]["TaskTemplate"]["ContainerSpec"]["TTY"] == true;
        let LogOptions { tail, since, follow } = options;
        let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let since = since.map_or(0, |since: Duration| since.as_secs());
        let path = format!(
            "/services/{id}/logs?stdout=true&stderr=true&timestamps=true&details=true&follow={follow}&tail={tail}&since={since}"
        );
        match self.http.stream(&path).await {
            Ok(body) => Ok(Logs { body, reader: LogReader::new(has_terminal), lines: VecDeque::new() }),
            Err(error) => Err(self.explain_about(error, Kind::Service, service).await),
        }
    }
}
