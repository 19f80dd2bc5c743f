//! From archives and folders to disks, judged by e2fsck, GNU tar, and the kernel where the tests
//! may mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::Quiet;
use image::ext4::{Owner, Recipe, write};
use image::tar::{Meaning, read_into};
use image::tree::Tree;
use sparkler_image as image;

/// Makes files of all kinds in the current folder. What only root can make is left out for others.
const FILES: &str = r"
    mkdir -p etc/deep/er empty 'with space'
    printf hello > etc/plain
    printf 'not text' > $(printf 'name\377\376')
    ln etc/plain hard
    ln -s ../etc/plain etc/soft
    ln -s $(printf 'x%.0s' $(seq 200)) etc/long-target
    printf deep > etc/deep/er/$(printf 'n%.0s' $(seq 200))
    chmod 4755 etc/plain; chmod 1777 empty; chmod 2750 etc/deep
    touch -d '1960-01-02 03:04:05.678' empty
    touch -d '2200-01-02 03:04:05.678' 'with space'
    mkfifo pipe
    truncate -s 3000000 hole; printf data | dd of=hole bs=1 seek=1000000 conv=notrunc status=none
    printf end | dd of=hole bs=1 seek=2999997 conv=notrunc status=none
    truncate -s 100000 all-hole
    i=0; while [ $i -lt 300 ]; do printf x | dd of=comb bs=1 seek=$((i * 16384)) conv=notrunc status=none; i=$((i + 1)); done
    mkdir many; seq 1000 | sed 's,^,many/a-rather-long-name-,' | xargs touch
    setfattr -n user.note -v hello etc/plain
    setfattr -n user.long -v $(printf 'y%.0s' $(seq 2000)) hard
    setfacl -m u:1234:rwx,g:77:r empty; setfacl -d -m u:5:r etc/deep
    [ $(id -u) = 0 ] || exit 0
    chown 70000:80000 etc/plain; chown -h 5:6 etc/soft
    setcap cap_net_raw+ep etc/deep/er/n*
    setfattr -n trusted.secret -v 1 empty
    mknod null c 1 3; mknod disk b 259 70000
";

fn shell(folder: &Path, script: &str) -> String {
    let script = format!("set -e; PATH=$PATH:/usr/sbin:/sbin; {script}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with `src`, full of files of all kinds.
fn files() -> Option<tempfile::TempDir> {
    for tool in ["setfacl", "setfattr", "setcap", "mke2fs"] {
        let found = Command::new("sh")
            .args(["-c", &format!("PATH=$PATH:/usr/sbin command -v {tool}")])
            .output();
        if !found.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "SKIPPED: no {tool}; run `cargo xtask test`, or install acl, attr, libcap2-bin, e2fsprogs"
            );
            return None;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    shell(&folder.path().join("src"), FILES);
    Some(folder)
}

fn tree_of_tar(path: &Path) -> Tree {
    let mut tree = Tree::new();
    let file = Arc::new(File::open(path).unwrap());
    let len = file.metadata().unwrap().len();
    read_into(&mut tree, &file, 0..len, Meaning::Whole, &mut |_| ()).unwrap();
    tree
}

fn disk(tree: Tree, path: &Path) -> PathBuf {
    write(tree, &Recipe::default(), path, &Quiet).unwrap();
    let folder = path.parent().unwrap();
    shell(folder, &format!("e2fsck -fn {} >&2", path.display()));
    path.to_owned()
}

/// Compares a disk with an archive, by mounting it; where that cannot be, says so.
fn compare(disk: &Path, archive: &Path) {
    let folder = disk.parent().unwrap();
    let mounted = folder.join("mounted");
    fs::create_dir_all(&mounted).unwrap();
    let options = "loop,ro,noload";
    let mount = Command::new("mount").args(["-o", options]).arg(disk).arg(&mounted).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: the comparison by the kernel: it takes root and loop devices");
        return;
    }
    let command = format!(
        "tar --compare --xattrs --xattrs-include='*' --acls --numeric-owner -f {} -C {}",
        archive.display(),
        mounted.display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let holes = fs::metadata(mounted.join("hole")).map(|metadata| metadata.blocks());
    let facts = shell(&mounted, "getfattr -dhR -m- . | sort; getfacl -nR . | sort");
    Command::new("umount").arg(&mounted).status().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(holes.unwrap() <= 32, "holes are kept");
    let source = folder.join("src");
    let expected = shell(&source, "getfattr -dhR -m- . | sort; getfacl -nR . | sort");
    for line in expected.lines() {
        assert!(facts.contains(line), "{line} is not in {facts}");
    }
}

#[test]
fn all_forms_of_archives_arrive_whole() {
    let Some(folder) = files() else { return };
    let path = folder.path();
    shell(
        path,
        "tar --xattrs --xattrs-include='*' --acls --sparse --numeric-owner --format=posix -cf reference.tar -C src .",
    );
    let forms = [
        ("--format=posix --sparse", true),
        ("--format=posix --sparse --sparse-version=0.0", true),
        ("--format=posix --sparse --sparse-version=0.1", true),
        ("--format=gnu --sparse", false),
        ("--format=posix", true),
    ];
    for (form, whole) in forms {
        let attributes = if whole { "--xattrs --xattrs-include='*' --acls" } else { "" };
        shell(path, &format!("tar {attributes} {form} --numeric-owner -cf form.tar -C src ."));
        let image = disk(tree_of_tar(&path.join("form.tar")), &path.join("image"));
        if whole && form.contains("sparse") {
            compare(&image, &path.join("reference.tar"));
        }
    }
}

#[test]
fn a_folder_arrives_whole_and_always_the_same() {
    let Some(folder) = files() else { return };
    let path = folder.path();
    shell(
        path,
        "tar --xattrs --xattrs-include='*' --acls --sparse --numeric-owner --format=posix -cf reference.tar -C src .",
    );
    let tree = |owner| {
        let mut tree = Tree::new();
        image::folder::read_into(&mut tree, &path.join("src"), owner, &Quiet).unwrap();
        tree
    };
    let first = disk(tree(Owner::Same), &path.join("first"));
    compare(&first, &path.join("reference.tar"));
    let second = disk(tree(Owner::Same), &path.join("second"));
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap());
    // From the archive, too: what differs is how the files came, not what they are.
    let third = disk(tree_of_tar(&path.join("reference.tar")), &path.join("third"));
    assert!(fs::read(&first).unwrap() == fs::read(third).unwrap());
    let mapped = disk(tree(Owner::Is(7, 8)), &path.join("mapped"));
    let said = shell(path, &format!("debugfs -R 'stat /etc/plain' {}", mapped.display()));
    assert!(said.contains("User:     7   Group:     8"), "{said}");
}

/// Expects that the archive is refused, with these words.
fn refused(bytes: &[u8], why: &str) {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let len = bytes.len() as u64;
    let mut tree = Tree::new();
    let error = read_into(&mut tree, &Arc::new(file), 0..len, Meaning::Whole, &mut |_| ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains(why), "{why:?} is not in {error:?}");
}

/// A header as POSIX has it.
fn header(path: &str, flag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut text =
        |at: usize, text: &str| bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    text(0, path);
    text(100, "0000644\0");
    text(108, "0000000\0");
    text(116, "0000000\0");
    text(124, &format!("{size:011o}\0"));
    text(136, "00000000000\0");
    text(148, "        ");
    text(157, link);
    text(257, "ustar\x0000");
    bytes[156] = flag;
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn extension(records: &str) -> Vec<u8> {
    let mut bytes = header("x", b'x', records.len() as u64, "");
    bytes.extend(records.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn bad_archives_are_refused_by_name() {
    refused(&header("../../etc/passwd", b'0', 0, ""), "/../../etc/passwd: `..` in the path");
    refused(&header("/etc/passwd", b'0', 0, ""), "/etc/passwd: the path is absolute");
    refused(&header("a", b'0', 5, ""), "/a: the archive ends in the middle of its content");
    refused(&header("a", b'0', 0, "")[..300], "it ends in the middle");
    refused(&[7; 512], "no tar header at byte 0");
    refused(&header("a", b'1', 0, "../b"), "`..` in the path");
    refused(&header("a", b'1', 0, "b"), "/a: it is a hard link to b, which is no file");
    refused(&header("a", b'2', 0, ""), "symbolic link to nothing");
    refused(&header("a", b'V', 0, ""), "of kind `V`");
    refused(&header("a", b'L', 2 << 20, ""), "more than 1 MiB");
    refused(&extension("99 path=x\n"), "extension header is damaged");
    refused(&extension("9 size=-\n"), "the value of size");
    let map = [extension("25 GNU.sparse.map=5,1,0,1\n"), header("a", b'0', 0, "")].concat();
    refused(&map, "extension header is damaged");
    let map = [extension("26 GNU.sparse.map=5,1,0,1\n"), header("a", b'0', 0, "")].concat();
    refused(&map, "list of holes is damaged");
    let through = [header("a", b'0', 0, ""), header("a/b", b'0', 0, "")].concat();
    refused(&through, "/a/b: a part of it is no folder");
}
