//! Where the rows of a data set lie: the splits of a folder, the sub-sets below it, and their bytes.
//!
//! It is here because every task finds its files the same way. What a file's content means is left to the tasks.
//!
//! A file is one split. In a folder, a split's file is called `train`, `valid` (`dev`, `validation`) or `test` with one
//! of the task's endings; `trainset`, `validset` and `testset` will do, and so will names that end that way
//! (`split_by_passage_train.jsonl`) or that begin that way and end in `_clean` (`train_4k_clean.json`). A data set of
//! several sub-sets has a sub-folder for each.

use super::{Splits, TaskError};
use crate::data::example::Example;
use std::path::{Path, PathBuf};

const TRAIN: &[&str] = &["train", "trainset"];
const VALID: &[&str] = &["valid", "dev", "validation", "validset"];
const TEST: &[&str] = &["test", "testset"];

/// Reads the splits of a data set: a file is its train split; a folder has at least one split's file.
pub(super) fn load_splits(
    path: &Path,
    extensions: &[&str],
    load: impl Fn(&Path) -> Result<Vec<Example>, TaskError>,
) -> Result<Splits, TaskError> {
    if !path.is_dir() {
        return Ok(Splits { train: load(path)?, valid: None, test: None });
    }
    folder_splits(path, extensions, &load)?.ok_or_else(|| no_train_file(path, extensions))
}

/// As [`load_splits`]; a folder without a split's file may have sub-folders with such files instead, which are joined
/// in the order of their names. Rows are grouped by the sub-folder's name.
pub(super) fn load_groups(
    path: &Path,
    extensions: &[&str],
    load: impl Fn(&Path) -> Result<Vec<Example>, TaskError>,
) -> Result<Splits, TaskError> {
    if !path.is_dir() {
        return Ok(Splits { train: load(path)?, valid: None, test: None });
    }
    if let Some(splits) = folder_splits(path, extensions, &load)? {
        return Ok(splits);
    }
    let mut folders = entries(path)?;
    folders.retain(|entry| entry.is_dir());
    let mut all: Option<Splits> = None;
    for folder in folders {
        let Some(mut part) = folder_splits(&folder, extensions, &load)? else { continue };
        let group = folder.file_name().unwrap_or_default().to_string_lossy();
        let lists = [Some(&mut part.train), part.valid.as_mut(), part.test.as_mut()];
        for row in lists.into_iter().flatten().flatten() {
            row.group = group.to_string();
        }
        let all = all.get_or_insert_default();
        all.train.append(&mut part.train);
        for (whole, more) in [(&mut all.valid, part.valid), (&mut all.test, part.test)] {
            if let Some(more) = more {
                whole.get_or_insert_default().extend(more);
            }
        }
    }
    all.ok_or_else(|| no_train_file(path, extensions))
}

/// The error of a folder that has no training rows.
pub(in crate::data) fn no_train_file(folder: &Path, extensions: &[&str]) -> TaskError {
    let names: Vec<String> = extensions.iter().map(|extension| format!("train.{extension}")).collect();
    TaskError::NoTrainFile { folder: folder.to_path_buf(), expected: names.join(" or ") }
}

/// The splits of a folder's own files; none without any.
fn folder_splits(
    folder: &Path,
    extensions: &[&str],
    load: &impl Fn(&Path) -> Result<Vec<Example>, TaskError>,
) -> Result<Option<Splits>, TaskError> {
    let files = entries(folder)?;
    let read = |stems| find_file(&files, stems, extensions)?.map(|file| load(file)).transpose();
    let (train, valid, test) = (read(TRAIN)?, read(VALID)?, read(TEST)?);
    let has_any = train.is_some() || valid.is_some() || test.is_some();
    Ok(has_any.then(|| Splits { train: train.unwrap_or_default(), valid, test }))
}

/// The file of a split: one whose stem is a name of the split, else one whose stem ends that way.
fn find_file<'a>(files: &'a [PathBuf], names: &[&str], extensions: &[&str]) -> Result<Option<&'a PathBuf>, TaskError> {
    let of_split = |is_named: &dyn Fn(&str, &str) -> bool| {
        let named = |file: &&PathBuf| {
            let ends = |extension: &&str| file.extension().is_some_and(|end| end.eq_ignore_ascii_case(extension));
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            extensions.iter().any(ends) && names.iter().any(|name| is_named(&stem, name))
        };
        let mut found = files.iter().filter(named).filter(|file| file.is_file());
        match (found.next(), found.next()) {
            (Some(first), Some(second)) => Err(TaskError::TwoFiles { first: first.clone(), second: second.clone() }),
            (file, _) => Ok(file),
        }
    };
    if let Some(file) = of_split(&|stem, name| stem == name)? {
        return Ok(Some(file));
    }
    let ends = |stem: &str, name: &str| stem.strip_suffix(name).is_some_and(|front| front.ends_with(['_', '-', '.']));
    let is_cleaned = |stem: &str, name: &str| {
        stem.strip_prefix(name).is_some_and(|rest| rest.starts_with(['_', '-']) && rest.ends_with("_clean"))
    };
    of_split(&|stem, name| ends(stem, name) || is_cleaned(stem, name))
}

/// What a folder holds, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let failed = |source| TaskError::Read { path: folder.to_path_buf(), source };
    let listed = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths =
        listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The bytes of a file.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, TaskError> {
    std::fs::read(path).map_err(|source| TaskError::Read { path: path.to_path_buf(), source })
}

/// The text without the byte-order mark that some editors put in front.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that say which file they are from.
    fn load(path: &Path) -> Result<Vec<Example>, TaskError> {
        let prompt = path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(vec![Example { prompt, ..Example::default() }])
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(rows: &[Example]) -> Vec<&str> {
        rows.iter().map(|row| row.prompt.as_str()).collect()
    }

    #[test]
    fn splits_come_from_the_files_of_a_folder() {
        let read = |files: &[&str]| load_splits(folder(files).path(), &["a", "b"], load);
        let missing = read(&["train.c", "notes.a"]).unwrap_err();
        assert!(missing.to_string().contains("expected train.a or train.b"), "{missing}");
        let only = read(&["train.b"]).unwrap();
        assert_eq!((names(&only.train), only.valid, only.test), (vec!["train.b"], None, None));
        let all = read(&["train.b", "dev.a", "test.b"]).unwrap();
        assert_eq!((names(&all.valid.unwrap()), names(&all.test.unwrap())), (vec!["dev.a"], vec!["test.b"]));
        for two in [["valid.b", "dev.a"], ["train.a", "train.b"], ["x_test.a", "y_test.a"]] {
            assert!(matches!(read(&two), Err(TaskError::TwoFiles { .. })), "{two:?}");
        }
        let with_file = folder(&["test.b"]);
        let file = load_splits(&with_file.path().join("test.b"), &["a", "b"], load).unwrap();
        assert_eq!((file.train.len(), file.test), (1, None));
    }

    #[test]
    fn longer_names_that_end_as_a_split_will_do() {
        let read = |files: &[&str]| load_splits(folder(files).path(), &["json"], load).unwrap();
        let ended =
            read(&["by_x_train.json", "by_x_validation.json", "by_x_test.json", "untrain.json", "test_ids.json"]);
        assert_eq!(names(&ended.train), ["by_x_train.json"]);
        assert_eq!(names(&ended.valid.unwrap()), ["by_x_validation.json"]);
        assert_eq!(names(&ended.test.unwrap()), ["by_x_test.json"]);
        assert_eq!(names(&read(&["train.json", "old_train.json"]).train), ["train.json"]);
        assert_eq!(names(&read(&["train_4k.json", "train_4k_clean.json"]).train), ["train_4k_clean.json"]);
    }

    #[test]
    fn a_folder_may_have_a_test_split_alone() {
        let splits = load_splits(folder(&["test.a"]).path(), &["a"], load).unwrap();
        assert!(splits.train.is_empty());
        assert_eq!(names(&splits.test.unwrap()), ["test.a"]);
    }

    #[test]
    fn sub_folders_are_groups_in_the_order_of_their_names() {
        let data = folder(&["b/train.a", "B/test.a", "c/dev.a", "c/train.a", "d/notes.txt", "readme.a"]);
        let splits = load_groups(data.path(), &["a"], load).unwrap();
        let groups = |rows: &[Example]| rows.iter().map(|row| row.group.clone()).collect::<Vec<_>>();
        assert_eq!(groups(&splits.train), ["b", "c"]);
        assert_eq!(
            (groups(&splits.valid.unwrap()), groups(&splits.test.unwrap())),
            (vec!["c".into()], vec!["B".into()])
        );
        let own = folder(&["test.a", "b/train.a"]);
        assert!(load_groups(own.path(), &["a"], load).unwrap().train.is_empty());
        let none = load_groups(folder(&["d/notes.txt"]).path(), &["a"], load).unwrap_err();
        assert!(matches!(none, TaskError::NoTrainFile { .. }));
        assert!(matches!(load_splits(folder(&["b/train.a"]).path(), &["a"], load), Err(TaskError::NoTrainFile { .. })));
    }
}
