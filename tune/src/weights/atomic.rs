//! Files and folders that are complete or absent.
//!
//! Everything is prepared under a temporary name beside its destination, flushed to the disk, and renamed: on one file system a rename happens entirely or
//! not at all, so that a crash, a full disk or a killed process never leaves half a model under its name, and what stood there before stays whole until
//! the moment it is replaced. A temporary sibling (`.NAME.xxxxxx.tmp`) is removed on failure; only a killed process leaves one behind. What is
//! written is left to the callers; append-only logs do not go through here.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use super::error::WeightsError;

/// Writes a whole file, or leaves what stands at `path` as it is.
///
/// The parent folder must exist. Errors: [`WeightsError::Io`], [`WeightsError::NoName`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// A file in the making: it appears at its path only by [`AtomicFile::commit`], and is removed when dropped before.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl AtomicFile {
    /// Begins a file that is to stand at `path`, in a folder that exists.
    ///
    /// Errors: [`WeightsError::Io`], [`WeightsError::NoName`].
    pub fn create(path: &Path) -> Result<Self, WeightsError> {
        let (parent, name) = parent_and_name(path)?;
        let prefix = temporary_prefix(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        let file = open_to_all(&mut builder, 0o666).tempfile_in(parent).map_err(WeightsError::io("create", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Where it will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes at the current place.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.file.as_file_mut().write_all(bytes).map_err(WeightsError::io("write", &self.path))
    }

    /// Moves the current place to `offset` bytes from the start.
    pub fn seek(&mut self, offset: u64) -> Result<(), WeightsError> {
        let moved = self.file.as_file_mut().seek(SeekFrom::Start(offset));
        moved.map(drop).map_err(WeightsError::io("write", &self.path))
    }

    /// Flushes the file to the disk, gives it its name, replacing what stands there, and flushes the name.
    pub fn commit(self) -> Result<(), WeightsError> {
        let Self { path, file } = self;
        file.as_file().sync_all().map_err(WeightsError::io("write", &path))?;
        file.persist(&path).map_err(|error| WeightsError::io("replace", &path)(error.error))?;
        sync_folder(parent_and_name(&path)?.0)
    }
}

/// A folder in the making: filled under a temporary name, it appears at its destination only by a commit, and is removed when dropped before.
#[derive(Debug)]
pub struct Staging {
    destination: PathBuf,
    folder: TempDir,
}

impl Staging {
    /// Begins a folder that is to stand at `destination`. Missing parents are created.
    ///
    /// Nothing is checked about a folder that stands there already, since it may be meant to be replaced: use [`Staging::refuse_existing`] before long
    /// work. Errors: [`WeightsError::Io`], [`WeightsError::NoName`].
    pub fn create(destination: &Path) -> Result<Self, WeightsError> {
        let (parent, name) = parent_and_name(destination)?;
        fs::create_dir_all(parent).map_err(WeightsError::io("create", parent))?;
        let prefix = temporary_prefix(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        let folder =
            open_to_all(&mut builder, 0o777).tempdir_in(parent).map_err(WeightsError::io("create", destination))?;
        Ok(Self { destination: destination.to_owned(), folder })
    }

    /// Fails with [`WeightsError::DestinationExists`] where `destination` is anything but absent or an empty folder.
    pub fn refuse_existing(destination: &Path) -> Result<(), WeightsError> {
        let occupied = || WeightsError::DestinationExists { path: destination.to_owned() };
        match fs::symlink_metadata(destination) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(WeightsError::io("look at", destination)(error)),
            Ok(kind) if !kind.is_dir() => Err(occupied()),
            Ok(_) => {
                let mut entries = fs::read_dir(destination).map_err(WeightsError::io("read", destination))?;
                if entries.next().is_none() { Ok(()) } else { Err(occupied()) }
            }
        }
    }

    /// The temporary folder, to be filled.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Flushes everything to the disk and gives the folder its name.
    ///
    /// Errors: [`WeightsError::DestinationExists`] where something other than an empty folder stands there; [`WeightsError::Io`]. On error the
    /// destination is as it was and the temporary folder is gone.
    pub fn commit(self) -> Result<(), WeightsError> {
        Self::refuse_existing(&self.destination)?;
        sync_tree(self.path())?;
        // The rename itself refuses a folder that was filled since the look above.
        self.rename()
    }

    /// As [`Staging::commit`], but a folder that stands at the destination is replaced.
    ///
    /// On Linux old and new exchange their names in one step and the old one is deleted. Where that cannot be done, the old folder is renamed aside and the
    /// new one takes its name; a process killed between the two leaves both whole under temporary names. Errors: [`WeightsError::Io`], after which the old
    /// folder stands where it stood.
    pub fn commit_replacing(self) -> Result<(), WeightsError> {
        sync_tree(self.path())?;
        if fs::symlink_metadata(&self.destination).is_err() {
            return self.rename();
        }
        match exchange(self.path(), &self.destination) {
            // what is dropped now is the old folder, under the temporary name
            true => sync_folder(parent_and_name(&self.destination)?.0),
            false => self.swap(),
        }
    }

    /// Renames with what stands at the destination moved aside, and moved back on failure.
    fn swap(self) -> Result<(), WeightsError> {
        let destination = self.destination.clone();
        // A temporary folder of our own to hold the old one: its name is free for certain.
        let aside = Self::create(&destination)?;
        let old = aside.path().join("replaced");
        fs::rename(&destination, &old).map_err(WeightsError::io("replace", &destination))?;
        self.rename().inspect_err(|_| {
            // The name was free a moment ago. Should this fail too, the old folder must at least not be deleted with its holder.
            if fs::rename(&old, &destination).is_err() {
                std::mem::forget(aside);
            }
        })
    }

    fn rename(self) -> Result<(), WeightsError> {
        let Self { destination, mut folder } = self;
        let renamed = fs::rename(folder.path(), &destination);
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                WeightsError::DestinationExists { path: destination.clone() }
            }
            _ => WeightsError::io("create", &destination)(error),
        })?;
        // It no longer stands under its temporary name.
        folder.disable_cleanup(true);
        sync_folder(parent_and_name(&destination)?.0)
    }
}

/// Lets two names change places in one step; false where the system has no such thing.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

/// Removes what killed processes left under temporary names in `folder`; what cannot be removed stays.
///
/// To be called only while no other process writes there.
pub fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".tmp") {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// The folder that holds `path`, and its name there.
fn parent_and_name(path: &Path) -> Result<(&Path, &OsStr), WeightsError> {
    let name = path.file_name().ok_or_else(|| WeightsError::NoName { path: path.to_owned() })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

fn temporary_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Permissions as any program's new files have them (`mode` less the user's mask); temporary files are otherwise closed to all but their owner.
fn open_to_all<'a, 'b, 'c>(builder: &'a mut tempfile::Builder<'b, 'c>, mode: u32) -> &'a mut tempfile::Builder<'b, 'c> {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// Flushes every file and folder below `folder`, and itself.
fn sync_tree(folder: &Path) -> Result<(), WeightsError> {
    for entry in fs::read_dir(folder).map_err(WeightsError::io("read", folder))? {
        let entry = entry.map_err(WeightsError::io("read", folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(WeightsError::io("read", &path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).map_err(WeightsError::io("write", &path))?;
        }
    }
    sync_folder(folder)
}

/// Flushes the names in a folder. Only Unix can open a folder for that; elsewhere the rename is left to the system.
fn sync_folder(folder: &Path) -> Result<(), WeightsError> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(WeightsError::io("write", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_file(&path, b"first").unwrap();
        write_file(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write(b"half of the thi").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second", "nothing is visible before the commit");
        assert_eq!(names(folder.path()).len(), 2);
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["x.json"], "no temporary file is left");
    }

    #[test]
    fn a_rename_that_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write_file(&path, b"x").unwrap_err();
        assert!(matches!(&error, WeightsError::Io { action: "replace", path: p, .. } if *p == path), "{error}");
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(&folder.path().join("absent/x"), b"x").unwrap_err().to_string();
        assert!(error.contains("absent/x") && error.contains("check the path"), "{error}");
        for path in ["/", "..", "a/.."] {
            assert!(matches!(write_file(Path::new(path), b"x"), Err(WeightsError::NoName { .. })), "{path}");
            assert!(matches!(Staging::create(Path::new(path)), Err(WeightsError::NoName { .. })), "{path}");
        }
        assert_eq!(parent_and_name(Path::new("x")).unwrap(), (Path::new("."), OsStr::new("x")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_said_to_be_full() {
        // This device answers every write as a full disk does.
        let error = fs::OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let text = WeightsError::io("write", "model.safetensors")(error).to_string();
        assert!(text.contains("model.safetensors") && text.contains("free some space"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn files_and_folders_are_as_readable_as_any_new_ones() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        fs::write(at("plain"), "x").unwrap();
        fs::create_dir(at("plain.d")).unwrap();
        write_file(&at("ours"), b"x").unwrap();
        Staging::create(&at("ours.d")).unwrap().commit().unwrap();
        assert_eq!((mode("ours"), mode("ours.d")), (mode("plain"), mode("plain.d")));
    }

    #[test]
    fn a_folder_appears_complete_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("deep/run");
        let staging = Staging::create(&destination).unwrap();
        fs::write(staging.path().join("a"), "1").unwrap();
        assert!(!destination.exists());
        drop(staging);
        assert!(names(&root.path().join("deep")).is_empty());
        let staging = Staging::create(&destination).unwrap();
        fs::create_dir(staging.path().join("sub")).unwrap();
        fs::write(staging.path().join("sub/a"), "1").unwrap();
        staging.commit().unwrap();
        assert_eq!(fs::read_to_string(destination.join("sub/a")).unwrap(), "1");
        assert_eq!(names(&root.path().join("deep")), ["run"]);
    }

    #[test]
    fn an_existing_destination_is_kept_and_an_empty_one_taken() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("run");
        fs::create_dir(&destination).unwrap();
        let staging = Staging::create(&destination).unwrap();
        fs::write(staging.path().join("a"), "1").unwrap();
        staging.commit().unwrap();
        assert_eq!(names(&destination), ["a"]);
        let second = Staging::create(&destination).unwrap();
        fs::write(second.path().join("b"), "2").unwrap();
        assert!(matches!(second.commit(), Err(WeightsError::DestinationExists { .. })));
        assert_eq!((names(&destination), names(root.path())), (vec!["a".to_owned()], vec!["run".to_owned()]));
        // The look before the rename is a courtesy; the rename alone must refuse too.
        let third = Staging::create(&destination).unwrap();
        assert!(matches!(third.rename(), Err(WeightsError::DestinationExists { .. })));
        assert_eq!((names(&destination), names(root.path())), (vec!["a".to_owned()], vec!["run".to_owned()]));
        fs::write(root.path().join("file"), "x").unwrap();
        let onto_file = Staging::create(&root.path().join("file")).unwrap();
        assert!(matches!(onto_file.rename(), Err(WeightsError::DestinationExists { .. })));
        assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "x");
    }

    #[test]
    fn a_folder_is_replaced_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("adapter");
        for content in ["1", "2", "3"] {
            let staging = Staging::create(&destination).unwrap();
            fs::write(staging.path().join(content), content).unwrap();
            staging.commit_replacing().unwrap();
            assert_eq!(
                (names(&destination), names(root.path())),
                (vec![content.to_owned()], vec!["adapter".to_owned()])
            );
        }
    }

    #[test]
    fn a_replacement_that_fails_brings_the_old_folder_back() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("adapter");
        fs::create_dir(&destination).unwrap();
        fs::write(destination.join("old"), "1").unwrap();
        let staging = Staging::create(&destination).unwrap();
        fs::remove_dir(staging.path()).unwrap();
        assert!(matches!(staging.swap(), Err(WeightsError::Io { .. })));
        assert_eq!((names(&destination), names(root.path())), (vec!["old".to_owned()], vec!["adapter".to_owned()]));
    }
}
