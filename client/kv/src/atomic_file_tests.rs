// SPDX-License-Identifier: MIT OR Apache-2.0

//! A file appears as a whole or not at all, and its writers do not interfere.

use std::os::unix::fs::symlink;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Starts a file both ways: without a name, where the file system supports that, and with one.
fn both(path: &Path) -> [AtomicFile; 2] {
    let folder = path.parent().unwrap().to_owned();
    [
        AtomicFile::create(path).unwrap(),
        AtomicFile::named(path.to_owned(), folder).unwrap(),
    ]
}

#[test]
fn a_file_appears_when_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for round in 0..2 {
        let mut file = both(&path).into_iter().nth(round).unwrap();
        let text = format!("round {round}");
        let before = fs::read(&path).ok();
        file.file().write_all(text.as_bytes()).unwrap();
        assert_eq!(fs::read(&path).ok(), before);
        file.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(names(folder.path()), ["out"]);
    }
}

#[test]
fn two_writers_of_one_name_do_not_interfere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let [mut first, mut second] = both(&path);
    first.file().write_all(b"first, half").unwrap();
    second.file().write_all(b"second").unwrap();
    second.publish().unwrap();
    first.file().write_all(b" and half").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    first.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first, half and half");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn what_is_not_published_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "before").unwrap();
    for mut file in both(&path) {
        file.file().write_all(b"x").unwrap();
    }
    AtomicFile::check(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"before");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn places_where_no_file_can_be_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for wrong in ["absent/out", "folder", "folder/", "new/", "file/out", ".."] {
        let path = folder.path().join(wrong);
        let error = AtomicFile::check(&path).expect_err(wrong).to_string();
        assert!(error.contains("cannot"), "{error}");
        check(&path).expect_err(wrong);
    }
    // A device node is not replaced by a file.
    AtomicFile::check(Path::new("/dev/null")).expect_err("no file");
    write(Path::new("/dev/null"), b"text").unwrap();
    write(Path::new("/dev/full"), b"text").expect_err("full");
    assert_eq!(names(folder.path()), ["file", "folder"]);
}

#[test]
fn a_link_is_followed_to_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    write(&file, b"before").unwrap();
    symlink("file", &link).unwrap();
    write(&link, b"after").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"after");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_name_of_any_length_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(255));
    for mut file in both(&path) {
        file.file().write_all(b"x").unwrap();
        file.publish().unwrap();
    }
}
