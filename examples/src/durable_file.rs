//! Small files that are there whole after a power cut, or not at all.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// A file without a name that lasts, of mode 0600, in the directory of what it is to become. Dropped, it leaves nothing.
///
/// # Errors
/// If the directory cannot be written.
pub fn draft(path: &Path) -> io::Result<NamedTempFile> {
    NamedTempFile::with_prefix_in(".draft-", directory(path))
}

/// Writes a draft and gives it the name `path`, in place of whatever has it. It is durable once this returns.
///
/// # Errors
/// If the disk refuses. What had the name before has it still, unless only the directory could not be made durable.
pub fn keep(mut draft: NamedTempFile, path: &Path, bytes: &[u8]) -> io::Result<File> {
    fill(&mut draft, bytes)?;
    let file = draft.persist(path)?;
    sync(path)?;
    Ok(file)
}

/// A new file of mode 0600, durable once this returns.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if anything has the name, which is left as it is; or the disk refuses.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = draft(path)?;
    fill(&mut draft, bytes)?;
    draft.persist_noclobber(path)?;
    sync(path)
}

fn fill(draft: &mut NamedTempFile, bytes: &[u8]) -> io::Result<()> {
    draft.write_all(bytes)?;
    draft.as_file().sync_all()
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
