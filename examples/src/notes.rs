//! The service of the story: a small notes application. HTTP in front, one SQLite file behind.
//!
//! It knows nothing of mesh, sync or proxy: it opens `notes.db` in the directory that it is given and answers on
//! the listener that it is given, as any application in a container does. A note is acknowledged (201) only after
//! SQLite has committed it with `synchronous=FULL`.
//!
//! `POST /notes` takes the text as its body and an `Idempotency-Key` header: a client that saw no answer sends
//! the same key again and gets the same note, not a second one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::web::{self, Accept, Reply, Server};

/// The longest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

/// One note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Position in the order of commits.
    pub id: i64,
    /// What its writer called it.
    pub key: String,
    /// The text.
    pub text: String,
}

/// What the application's database says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The answer of `PRAGMA integrity_check`: `ok`, or what is wrong.
    pub integrity: String,
    /// Notes stored.
    pub notes: u64,
    /// Notes whose text another note has too.
    pub duplicates: u64,
}

/// The application, running.
pub struct Notes {
    server: Server,
    store: Arc<Store>,
}

impl Notes {
    /// Opens (or creates) `notes.db` in `directory` and answers on `listener` as the node called `node`.
    ///
    /// # Errors
    /// The database cannot be opened or its schema cannot be made.
    pub fn start<A: Accept>(directory: &Path, node: &str, listener: A) -> rusqlite::Result<Self> {
        let store = Arc::new(Store::open(directory)?);
        let (shared, node) = (store.clone(), Arc::<str>::from(node));
        let server = web::serve(listener, move |request| answer(shared.clone(), node.clone(), request));
        Ok(Self { server, store })
    }

    /// Lets requests in flight finish and closes the database, so that SQLite folds its WAL into the file.
    pub async fn stop(self) {
        self.server.stop().await;
        drop(self.store);
    }
}

struct Store {
    database: Mutex<Connection>,
}

impl Store {
    fn open(directory: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(directory.join("notes.db"))?;
        database.pragma_update(None, "journal_mode", "wal")?;
        database.pragma_update(None, "synchronous", "full")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, text TEXT NOT NULL)",
        )?;
        Ok(Self { database: Mutex::new(database) })
    }

    fn with<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        act(&self.database.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, key: &str, text: &str) -> rusqlite::Result<Note> {
        self.with(|db| {
            db.prepare_cached("INSERT INTO note(key, text) VALUES (?1, ?2) ON CONFLICT(key) DO NOTHING")?
                .execute(params![key, text])?;
            db.prepare_cached("SELECT id, key, text FROM note WHERE key = ?1")?.query_row([key], note)
        })
    }

    fn list(&self) -> rusqlite::Result<Vec<Note>> {
        self.with(|db| {
            db.prepare("SELECT id, key, text FROM note ORDER BY id")?.query_map([], note)?.collect()
        })
    }

    fn check(&self) -> rusqlite::Result<Check> {
        self.with(|db| {
            let integrity = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            let (notes, duplicates) =
                db.query_row("SELECT count(*), count(*) - count(DISTINCT text) FROM note", [], |row| {
                    Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
                })?;
            Ok(Check { integrity, notes, duplicates })
        })
    }
}

fn note(row: &rusqlite::Row<'_>) -> rusqlite::Result<Note> {
    Ok(Note { id: row.get(0)?, key: row.get(1)?, text: row.get(2)? })
}

async fn answer(store: Arc<Store>, node: Arc<str>, request: Request<Incoming>) -> Reply {
    let mut reply = match (request.method(), request.uri().path()) {
        (&Method::POST, "/notes") => add(store, request).await,
        (&Method::GET, "/notes") => json(StatusCode::OK, query(move || store.list()).await),
        (&Method::GET, "/check") => json(StatusCode::OK, query(move || store.check()).await),
        (&Method::GET, "/") => home(&node, query(move || store.list()).await),
        _ => web::reply(StatusCode::NOT_FOUND, "text/plain", "no such page: try / or /notes\n"),
    };
    if let Ok(value) = hyper::header::HeaderValue::from_str(&node) {
        reply.headers_mut().insert("x-served-by", value);
    }
    reply
}

async fn add(store: Arc<Store>, request: Request<Incoming>) -> Reply {
    let bad = |why: &'static str| web::reply(StatusCode::BAD_REQUEST, "text/plain", why);
    let Some(key) =
        request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned)
    else {
        return bad("send an Idempotency-Key header: a name for this note that you use once\n");
    };
    let Ok(body) = Limited::new(request.into_body(), NOTE_BYTES_MAX).collect().await else {
        return bad("the note did not arrive whole, or is longer than 64 KiB\n");
    };
    let Ok(text) = String::from_utf8(body.to_bytes().to_vec()) else {
        return bad("a note is UTF-8 text\n");
    };
    json(StatusCode::CREATED, query(move || store.add(&key, &text)).await)
}

/// Runs a query where it may wait for the disk without holding up the other requests.
async fn query<T: Send + 'static>(
    run: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn json<T: Serialize>(status: StatusCode, result: Result<T, String>) -> Reply {
    match result.and_then(|value| serde_json::to_vec(&value).map_err(|error| error.to_string())) {
        Ok(body) => web::reply(status, "application/json", body),
        Err(error) => failed(&error),
    }
}

fn home(node: &str, notes: Result<Vec<Note>, String>) -> Reply {
    let notes = match notes {
        Ok(notes) => notes,
        Err(error) => return failed(&error),
    };
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>Notes</title><h1>Notes</h1><p>{} notes, served by {}</p><ol>",
        notes.len(),
        web::escape(node)
    );
    for note in notes.iter().rev().take(100) {
        page.push_str(&format!("<li value={}>{}", note.id, web::escape(&note.text)));
    }
    web::reply(StatusCode::OK, "text/html; charset=utf-8", page)
}

fn failed(error: &str) -> Reply {
    tracing::warn!(error, "notes database");
    web::reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", Bytes::from_static(b"the database refused\n"))
}

/// Checks a copy of the database in `directory`, where the application does not run: the file itself stays
/// untouched, and a replica may replace it at any time.
///
/// # Errors
/// The file is missing, cannot be copied, or is not a database.
pub fn check_copy(directory: &Path) -> Result<Check, Box<dyn std::error::Error + Send + Sync>> {
    let copy = tempfile::tempdir()?;
    std::fs::copy(directory.join("notes.db"), copy.path().join("notes.db"))?;
    Ok(Store::open(copy.path())?.check()?)
}
