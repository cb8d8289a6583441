//! What SQLite says of the index file, sorted by what can be done about it.

use crate::index::IndexError;

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly,
            SystemIoFailure,
        };
        let passing = [DiskFull, ReadOnly, CannotOpen, SystemIoFailure, OutOfMemory, PermissionDenied];
        let passes = |code| passing.contains(&code) || [DatabaseBusy, DatabaseLocked].contains(&code);
        match error.sqlite_error_code() {
            Some(code) if passes(code) => Self::Unusable(error.to_string()),
            // All statements are this module's own: what they meet elsewhere is not what they wrote.
            _ => Self::Damaged(error.to_string()),
        }
    }
}

pub(in crate::driver) fn damaged(error: impl std::fmt::Display) -> IndexError {
    IndexError::Damaged(format!("a row is damaged: {error}"))
}
