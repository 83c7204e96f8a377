//! Two objects at once in a directory, durable both of them when it returns, in two waits for the disk instead of four.
//!
//! An object store makes each object durable by itself: its content, then its name. Here the log object stands for the data:
//! nobody looks for data that no log object names. So only that one has to be whole and durable before it has its name, and
//! what the two need up to there is waited for together. A file system with a journal writes the name of a new file along
//! with its content, so that the wait for the directory of the data takes no time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    thread,
};

use keyferry_runtime::failpoint;

use crate::store::Created;

/// Makes `data` durable, and then `log`, unless it is there. `None` if this is not a case for it, and nothing was done: a
/// folder is missing, or the data are there, perhaps half written by somebody who was killed.
///
/// Blocks on the disk. After an error the data may be there, whole or not, and the log object is whole or not there.
///
/// # Errors
/// Those of the system.
pub(crate) fn publish(data: (&Path, &[u8]), log: (&Path, &[u8])) -> io::Result<Option<Created>> {
    let Some(content) = Staged::write(data)? else { return Ok(None) };
    let Some(entry) = Staged::write(log)? else { return Ok(None) };
    match fs::hard_link(&content.path, data.0) {
        Ok(()) => (),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
        Err(e) => return Err(e),
    }
    thread::scope(|scope| {
        let entry = scope.spawn(|| entry.file.sync_all());
        content.file.sync_all()?;
        sync_folder(data.0)?;
        entry.join().map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    failpoint::pass("append-data");
    let created = match fs::hard_link(&entry.path, log.0) {
        Ok(()) => Created::New,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Created::Exists,
        Err(e) => return Err(e),
    };
    sync_folder(log.0)?;
    Ok(Some(created))
}

/// A file beside its place, under a name that no listing shows and that the sweep knows. It goes when this is dropped.
struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    /// `None` if the folder is not there.
    fn write((place, bytes): (&Path, &[u8])) -> io::Result<Option<Self>> {
        let mut attempt = 1_u32;
        loop {
            let mut name = place.as_os_str().to_owned();
            name.push(format!("#{attempt}"));
            let path = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut staged = Self { path, file };
                    staged.file.write_all(bytes)?;
                    return Ok(Some(staged));
                }
                // Another instance is at it, or was killed there.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => attempt += 1,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What stays behind is no object, and is swept in time.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(place: &Path) -> io::Result<()> {
    File::open(place.parent().unwrap_or(place))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn both_are_there_or_the_log_object_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let publish =
            |data: &str, log: &str| publish((&at(data), b"keys"), (&at(log), log.as_bytes())).unwrap();
        assert_eq!(publish("d1", "l1"), Some(Created::New));
        assert_eq!(publish("d2", "l1"), Some(Created::Exists), "another instance was first");
        assert_eq!(fs::read(at("l1")).unwrap(), b"l1");
        // What somebody left there who was killed is not relied on.
        fs::write(at("d3"), "ke").unwrap();
        assert_eq!(publish("d3", "l3"), None);
        assert_eq!(publish("d4", "none/l4"), None);
        assert_eq!(publish("none/d4", "l4"), None);
        assert_eq!(names(folder.path()), ["d1", "d2", "d3", "l1"]);
        // Half-written files of others are passed over.
        fs::write(at("d5#1"), "").unwrap();
        assert_eq!(publish("d5", "l5"), Some(Created::New));
        assert_eq!(names(folder.path()), ["d1", "d2", "d3", "d5", "d5#1", "l1", "l5"]);
        assert_eq!(fs::read(at("d5")).unwrap(), b"keys");
    }
}
