use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

fn key() -> Key {
    Key::new("thing", 1).with("input", "a")
}

fn make(folder: &Path) -> Result<Vec<(&'static str, String)>> {
    fs::write(folder.join("small"), "some text").unwrap();
    fs::write(folder.join("large"), vec![7; 3 << 20]).unwrap();
    fs::create_dir(folder.join("inner")).unwrap();
    fs::write(folder.join("inner/file"), "").unwrap();
    Ok(vec![("version", "1.2".into())])
}

fn never(_: &Path) -> Result<Vec<(&'static str, String)>> {
    panic!("the entry should have been found")
}

#[test]
fn an_entry_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let first = cache.entry(&key(), make).unwrap();
    let second = cache.entry(&key(), never).unwrap();
    assert_eq!(first.file("small"), second.file("small"));
    assert_eq!(second.note("version"), Some("1.2"));
    assert_eq!(fs::read_to_string(second.file("small")).unwrap(), "some text");
    assert_eq!(cache.list("thing").len(), 1);
    assert!(fs::read_dir(folder.path().join(TEMPORARY)).unwrap().next().is_none());
}

#[test]
fn other_inputs_or_recipes_are_other_entries() {
    let names = [
        key(),
        Key::new("thing", 2).with("input", "a"),
        Key::new("thing", 1).with("input", "b"),
        Key::new("thing", 1).with("inputa", ""),
        Key::new("thing", 1),
    ];
    let distinct: std::collections::HashSet<String> = names.iter().map(Key::name).collect();
    assert_eq!(distinct.len(), names.len());
}

/// Damages an entry and checks that it is noticed and made again.
fn check(damage: impl FnOnce(&Entry)) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    damage(&cache.entry(&key(), make).unwrap());
    assert_eq!(cache.list("thing").len(), 0, "the damage is noticed");
    let mut made = false;
    let entry = cache.entry(&key(), |folder| {
        made = true;
        make(folder)
    });
    assert!(made);
    assert_eq!(fs::read_to_string(entry.unwrap().file("small")).unwrap(), "some text");
    cache.entry(&key(), never).unwrap();
}

#[test]
fn damage_is_noticed() {
    check(|entry| fs::write(entry.file("small"), "some test").unwrap());
    check(|entry| fs::write(entry.file("small"), "").unwrap());
    check(|entry| fs::remove_file(entry.file("inner/file")).unwrap());
    check(|entry| {
        File::options().write(true).open(entry.file("large")).unwrap().set_len(9).unwrap()
    });
    check(|entry| {
        let file = File::options().write(true).open(entry.file("large")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", (3 << 20) - 1).unwrap();
    });
    check(|entry| fs::remove_file(entry.file(manifest::FILE)).unwrap());
    check(|entry| {
        let text = fs::read_to_string(entry.file(manifest::FILE)).unwrap();
        fs::write(entry.file(manifest::FILE), &text[..text.len() / 2]).unwrap();
    });
    check(|entry| fs::write(entry.file(manifest::FILE), "").unwrap());
}

#[test]
fn a_failed_recipe_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let failed = cache.entry(&key(), |folder| {
        fs::write(folder.join("half"), "x").unwrap();
        Err(Error::format("a test", "it is one"))
    });
    assert!(failed.is_err());
    assert!(cache.list("thing").is_empty());
    assert!(fs::read_dir(folder.path().join(TEMPORARY)).unwrap().next().is_none());
}

#[test]
fn threads_that_want_one_entry_make_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                cache.entry(&key(), |folder| {
                    count.fetch_add(1, Ordering::Relaxed);
                    make(folder)
                })
            });
        }
    });
    assert_eq!(count.into_inner(), 1);
}

#[test]
fn only_old_and_unlocked_folders_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let long_ago = SystemTime::now() - 2 * SWEEP_AGE;
    let age = |path: &Path| File::open(path).unwrap().set_modified(long_ago).unwrap();

    let killed = cache.root().join(TEMPORARY).join("1.99");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join("half"), "x").unwrap();
    age(&killed);
    let young = cache.root().join(TEMPORARY).join("1.100");
    fs::create_dir(&young).unwrap();
    let working = cache.temporary().unwrap();
    age(working.path());

    Cache::at(folder.path()).unwrap();
    assert!(!killed.exists());
    assert!(young.exists());
    assert!(working.path().exists());
}
