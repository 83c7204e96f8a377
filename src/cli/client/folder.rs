//! The folder of downloads: files that are whole or not there, and how far they go.
//!
//! A batch is written and on disk before the state says so. Killed between the two, the same batch comes again and
//! replaces its file by the same bytes: nothing is lost, nothing stands there twice.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use keyferry_runtime::exit::Fatal;
use keyferry_schemas::country::Country;
use keyferry_sinks::tag::BatchTag;
use serde::{Deserialize, Serialize};

const STATE: &str = "keyferry-state.json";
const LOCK: &str = ".keyferry.lock";

/// How far the files go, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct State {
    /// The hub.
    url: String,
    /// The country that downloads.
    country: Option<Country>,
    /// The last batch that is here, or was erased before it could be fetched.
    pub(super) batch_tag: BatchTag,
}

/// A folder that nobody else writes to meanwhile.
pub(super) struct Folder {
    path: PathBuf,
    /// Held, and let go by the system at the latest.
    _lock: File,
    url: String,
    country: Option<Country>,
    state: Option<State>,
}

impl Folder {
    /// Makes it if it is not there, and reads how far it goes.
    pub(super) fn open(path: &Path, url: &str, country: Option<Country>) -> Result<Self, Fatal> {
        let shown = path.display();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| Fatal::config(format_args!("--out {shown} can not be made: {e}")))?;
        let lock = private(OpenOptions::new().create(true).truncate(false)).open(path.join(LOCK));
        let lock =
            lock.map_err(|e| Fatal::config(format_args!("--out {shown} can not be written to: {e}")))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => {
                Fatal::failure(format_args!("another `keyferry client download` is at work in {shown}"))
            }
            TryLockError::Error(e) => Fatal::failure(format_args!("{shown} can not be locked: {e}")),
        })?;
        let state = read(&path.join(STATE))?;
        if let Some(state) = &state
            && (state.url.as_str(), state.country) != (url, country)
        {
            let of = state.country.map_or_else(String::new, |c| format!(" for {c}"));
            return Err(Fatal::config(format_args!(
                "{shown} holds batches{of} from {}; use another folder, or, if only its address has changed, put the new \
                 one into {STATE}",
                state.url
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock, url: url.to_owned(), country, state })
    }

    /// The last batch.
    pub(super) fn last(&self) -> Option<BatchTag> {
        self.state.as_ref().map(|state| state.batch_tag)
    }

    /// Puts a batch on disk, then says that it is there. Returns its file.
    pub(super) fn store(&mut self, tag: BatchTag, extension: &str, bytes: &[u8]) -> Result<PathBuf, Fatal> {
        let file = format!("{tag}.{extension}");
        self.put(&file, bytes)?;
        self.pass(tag)?;
        Ok(self.path.join(file))
    }

    /// Goes beyond a batch, which is here or will never be.
    pub(super) fn pass(&mut self, tag: BatchTag) -> Result<(), Fatal> {
        let state = State { url: self.url.clone(), country: self.country, batch_tag: tag };
        let text = serde_json::to_vec_pretty(&state);
        let text = text.map_err(|e| Fatal::failure(format_args!("{STATE} can not be written: {e}")))?;
        self.put(STATE, &text)?;
        self.state = Some(state);
        Ok(())
    }

    /// Replaces a file as a whole, on disk when this returns.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Fatal> {
        let write = || -> io::Result<()> {
            let new = self.path.join(format!(".{name}.new"));
            let mut file = private(OpenOptions::new().create(true).truncate(true)).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, self.path.join(name))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| {
            Fatal::failure(format_args!("{} can not be written: {e}", self.path.join(name).display()))
        })
    }
}

/// Keys are personal data: for the owner's eyes.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true).mode(0o600)
}

fn read(path: &Path) -> Result<Option<State>, Fatal> {
    let shown = path.display();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Fatal::config(format_args!("{shown} can not be read: {e}"))),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        Fatal::config(format_args!(
            "{shown} is not what was written there ({e}); with it gone, all is fetched again"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use keyferry_runtime::exit::Exit;

    use super::*;

    const HUB: &str = "https://hub/";

    fn open(path: &Path) -> Result<Folder, Fatal> {
        Folder::open(path, HUB, "FR".parse().ok())
    }

    #[test]
    fn it_knows_how_far_it_goes_and_whose_it_is() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("a/b");
        let mut folder = open(&path).unwrap();
        assert_eq!(folder.last(), None);
        let tag: BatchTag = "20261124-3".parse().unwrap();
        let file = folder.store(tag, "pb", b"keys").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"keys");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path).err().map(|e| e.exit), Some(Exit::Failure), "it is taken");
        drop(folder);
        assert_eq!(open(&path).unwrap().last(), Some(tag));
        for (url, country) in [("https://other/", "FR"), (HUB, "DE")] {
            let fatal = Folder::open(&path, url, country.parse().ok()).err().unwrap();
            assert!(
                fatal.exit == Exit::Config && fatal.message.contains("for FR from https://hub/"),
                "{fatal}"
            );
        }
        fs::write(path.join(STATE), "{}").unwrap();
        assert_eq!(open(&path).err().map(|e| e.exit), Some(Exit::Config));
    }

    #[test]
    fn what_a_killed_run_left_half_written_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two): (BatchTag, BatchTag) = ("20261124-1".parse().unwrap(), "20261124-2".parse().unwrap());
        open(folder.path()).unwrap().store(one, "pb", b"one").unwrap();
        // Killed while it wrote; and, the time after, between the batch and the state.
        fs::write(folder.path().join(".20261124-2.pb.new"), b"tw").unwrap();
        fs::write(folder.path().join("20261124-2.pb"), b"two").unwrap();
        let mut again = open(folder.path()).unwrap();
        assert_eq!(again.last(), Some(one));
        again.store(two, "pb", b"two").unwrap();
        assert_eq!(again.last(), Some(two));
        let names =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, [".keyferry.lock", "20261124-1.pb", "20261124-2.pb", STATE]);
    }
}
