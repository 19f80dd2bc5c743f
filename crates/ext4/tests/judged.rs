//! File systems that we wrote, judged by e2fsprogs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use sparkler_ext4::builder::Xattrs;
use sparkler_ext4::{
    Attributes, Builder, Contents, Kind, NodeId, Options, Plan, Size, Special, Time,
};

/// Contents that depend on the file and the place.
struct Pattern;

impl Contents for Pattern {
    fn read(&mut self, node: NodeId, offset: u64, to: &mut [u8]) -> io::Result<()> {
        for (byte, at) in to.iter_mut().zip(offset..) {
            *byte = pattern(node, at);
        }
        Ok(())
    }
}

fn pattern(node: NodeId, at: u64) -> u8 {
    (node.index() as u64 * 31 + at / 7) as u8
}

fn attributes(mode: u16) -> Attributes {
    let modified = Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    Attributes { mode, uid: 1000, gid: 70_000, modified }
}

fn options(size: Size, journal: bool) -> Options {
    Options {
        size,
        journal,
        uuid: *b"0123456789abcdef",
        label: "a label".into(),
        epoch: 1_700_000_000,
    }
}

fn file(size: u64) -> Kind {
    let whole = 0..size;
    Kind::File { size, data: if size == 0 { vec![] } else { vec![whole] } }
}

fn tool(name: &str, args: &[&str], image: &Path) -> String {
    let output = Command::new(format!("/usr/sbin/{name}")).args(args).arg(image).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{name} {args:?}: {text}");
    text
}

fn debugfs(command: &str, image: &Path) -> String {
    tool("debugfs", &["-R", command], image)
}

/// Writes the image and has it checked; whoever keeps the folder keeps the image.
fn write(builder: Builder, options: Options) -> (tempfile::TempDir, std::path::PathBuf, Plan) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let plan = Plan::new(builder, options).unwrap();
    let mut image = File::create(&path).unwrap();
    image.set_len(plan.size()).unwrap();
    plan.write(&mut image, &mut Pattern, &mut |_| ()).unwrap();
    let text = tool("e2fsck", &["-fn"], &path);
    assert!(!text.contains("Fix") && !text.contains("WARNING"), "{text}");
    (folder, path, plan)
}

fn root() -> Builder {
    Builder::new(attributes(0o755), Xattrs::new())
}

#[test]
fn empty_ones_of_all_sizes() {
    for size in [2 << 20, 8 << 20, 128 << 20, (128 << 20) + 4096, 129 << 20, 1 << 30, 20 << 30] {
        for journal in [false, true] {
            if journal && size < 8 << 20 {
                continue;
            }
            let (_folder, path, plan) = write(root(), options(Size::Bytes(size), journal));
            assert!(plan.free() > plan.size() / 3, "{size}");
            let features = tool("dumpe2fs", &["-h"], &path);
            assert_eq!(features.contains("has_journal"), journal, "{features}");
        }
    }
}

#[test]
fn a_terabyte_is_a_sparse_file() {
    use std::os::unix::fs::MetadataExt;
    let (_folder, path, _) = write(root(), options(Size::Bytes(1 << 40), true));
    let taken = std::fs::metadata(path).unwrap().blocks() * 512;
    assert!(taken < 16 << 20, "{taken}");
}

/// All kinds of inodes.
fn kinds() -> Builder {
    let mut builder = root();
    let acl = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0];
    let acl =
        [&acl[..], &[4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255]].concat();
    let acl = [&acl[..], &[32, 0, 5, 0, 255, 255, 255, 255]].concat();
    let xattrs = Xattrs::from([
        (b"user.note".to_vec(), b"hello".to_vec()),
        (b"user.empty".to_vec(), vec![]),
        (b"user.long".to_vec(), vec![b'x'; 3000]),
        (
            b"security.capability".to_vec(),
            vec![1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (b"system.posix_acl_access".to_vec(), acl),
    ]);
    let etc = builder.folder(NodeId::ROOT, b"etc", attributes(0o1777), Xattrs::new()).unwrap();
    let plain = builder.inode(etc, b"plain", attributes(0o4755), xattrs, file(100_000)).unwrap();
    builder.link(NodeId::ROOT, b"hard", plain).unwrap();
    let long = vec![b'y'; 1000];
    let others = [
        ("short", Kind::Symlink(b"../etc/plain".to_vec())),
        ("brim", Kind::Symlink(vec![b'z'; 59])),
        ("over", Kind::Symlink(vec![b'z'; 60])),
        ("long", Kind::Symlink(long)),
        ("null", Kind::Special(Special::Character(1, 3))),
        ("disk", Kind::Special(Special::Block(259, 70_000))),
        ("pipe", Kind::Special(Special::Pipe)),
        ("socket", Kind::Special(Special::Socket)),
        ("empty", file(0)),
        ("hole", Kind::File { size: 1 << 30, data: vec![] }),
        ("holes", Kind::File { size: 9000, data: vec![0..4096, 8192..9000] }),
    ];
    for (name, kind) in others {
        builder.inode(etc, name.as_bytes(), attributes(0o644), Xattrs::new(), kind).unwrap();
    }
    let many = (0..2000u64).map(|n| n * 16_384..n * 16_384 + 4096).collect();
    let many = Kind::File { size: 1 << 40, data: many };
    builder.inode(etc, b"many extents", attributes(0o600), Xattrs::new(), many).unwrap();
    builder.inode(etc, b"\xFF\xFEnot text", attributes(0o600), Xattrs::new(), file(1)).unwrap();
    builder
}

#[test]
fn every_kind_of_inode() {
    let (_folder, path, _) = write(kinds(), options(Size::Fit { free: 0 }, true));
    let plain = debugfs("stat /etc/plain", &path);
    for part in
        ["Mode:  04755", "User:  1000   Group: 70000", "Links: 2", "Size: 100000", "123456789"]
    {
        let nanoseconds = format!("{:08x}", 123_456_789u32 << 2);
        let part = if part == "123456789" { &nanoseconds } else { part };
        assert!(plain.contains(part), "{part}: {plain}");
    }
    let xattrs = debugfs("ea_list /etc/plain", &path);
    for name in ["user.note (5)", "user.empty (0)", "user.long (3000)", "security.capability (20)"]
    {
        assert!(xattrs.contains(name), "{xattrs}");
    }
    assert!(debugfs("stat /etc/disk", &path).contains("259:70000"));
    assert!(debugfs("stat /etc/hole", &path).contains("Blockcount: 0"));
    assert!(debugfs("stat /etc/holes", &path).contains("Blockcount: 16"));
    assert!(debugfs("stat /etc/short", &path).contains("\"../etc/plain\""));
    let copy = path.with_extension("copy");
    debugfs(&format!("dump /etc/plain {}", copy.display()), &path);
    let content = std::fs::read(copy).unwrap();
    // The root, etc, and then it.
    let expected: Vec<u8> = (0..100_000).map(|at| (2 * 31 + at / 7) as u8).collect();
    assert!(content == expected);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let image = || {
        let (_folder, path, _) = write(kinds(), options(Size::Fit { free: 1 << 20 }, false));
        std::fs::read(path).unwrap()
    };
    assert!(image() == image());
}

#[test]
fn folders_grow_an_index() {
    let mut builder = root();
    for (folder, count) in [("few", 10u32), ("block", 200), ("root", 5000), ("levels", 60_000)] {
        let parent = builder
            .folder(NodeId::ROOT, folder.as_bytes(), attributes(0o755), Xattrs::new())
            .unwrap();
        for n in 0..count {
            let name = format!("{n:x}-{}", "long".repeat(n as usize % 20));
            builder
                .inode(parent, name.as_bytes(), attributes(0o600), Xattrs::new(), file(0))
                .unwrap();
        }
    }
    let (_folder, path, _) = write(builder, options(Size::Fit { free: 0 }, false));
    assert!(debugfs("stat /levels", &path).contains("Flags: 0x81000"));
    assert!(debugfs("stat /few", &path).contains("Flags: 0x80000"));
}

#[test]
fn many_folders_have_one_link() {
    let mut builder = root();
    for n in 0..65_500u32 {
        let name = n.to_string();
        builder.folder(NodeId::ROOT, name.as_bytes(), attributes(0o755), Xattrs::new()).unwrap();
    }
    let (_folder, path, _) = write(builder, options(Size::Fit { free: 0 }, false));
    assert!(debugfs("stat /", &path).contains("Links: 1 "));
}

#[test]
fn what_is_refused() {
    let mut builder = root();
    let root = NodeId::ROOT;
    let mut add = |name: &str, kind| {
        builder.inode(root, name.as_bytes(), attributes(0o600), Xattrs::new(), kind)
    };
    for name in ["", ".", "..", "a/b", "a\0", &"n".repeat(256)] {
        assert!(add(name, file(0)).is_err(), "{name}");
    }
    let node = add("a", file(0)).unwrap();
    assert!(add("a", file(0)).is_err());
    assert!(add("b", Kind::Symlink(vec![])).is_err());
    assert!(add("b", Kind::Symlink(vec![1; 4096])).is_err());
    let backwards = Kind::File { size: 9, data: vec![5..9, 0..4] };
    assert!(add("b", backwards).is_err());
    assert!(add("b", Kind::File { size: u64::MAX, data: vec![] }).is_err());
    assert!(builder.folder(node, b"c", attributes(0), Xattrs::new()).is_err());
    assert!(builder.link(root, b"c", root).is_err());
    for n in 1..sparkler_ext4::LINKS_MAX {
        builder.link(root, format!("l{n}").as_bytes(), node).unwrap();
    }
    assert!(builder.link(root, b"c", node).is_err());
    builder.inode(root, b"large", attributes(0), Xattrs::new(), file(5 << 20)).unwrap();
    let refused = Plan::new(builder, options(Size::Bytes(2 << 20), false)).unwrap_err();
    assert_eq!(refused.to_string(), "2 MiB do not suffice: the content needs at least 7 MiB");
}

/// Kind, parent, size, attributes.
type Entry = (u8, usize, u64, BTreeMap<String, Vec<u8>>);

/// A tree by chance: each entry has a parent among the folders before it.
fn trees() -> impl Strategy<Value = Vec<Entry>> {
    let xattrs = proptest::collection::btree_map(
        "(user|trusted|security)\\.[a-z]{1,30}",
        proptest::collection::vec(any::<u8>(), 0..200),
        0..4,
    );
    let entry = (0u8..5, any::<usize>(), 0u64..200_000, xattrs);
    proptest::collection::vec(entry, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_is_clean(tree in trees(), journal: bool) {
        let mut builder = root();
        let mut folders = vec![NodeId::ROOT];
        for (number, (kind, parent, size, xattrs)) in tree.into_iter().enumerate() {
            let parent = folders[parent % folders.len()];
            let name = format!("{number}");
            let xattrs: Xattrs = xattrs.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect();
            let attributes = attributes(0o750);
            let kind = match kind {
                0 | 1 => {
                    folders.push(builder.folder(parent, name.as_bytes(), attributes, xattrs).unwrap());
                    continue;
                }
                2 => Kind::Symlink(vec![b'a'; 1 + size as usize % 4000]),
                3 => {
                    let half = Some(size / 2..size).filter(|range| !range.is_empty());
                    Kind::File { size, data: half.into_iter().collect() }
                }
                _ => file(size),
            };
            builder.inode(parent, name.as_bytes(), attributes, xattrs, kind).unwrap();
        }
        write(builder, options(Size::Fit { free: 0 }, journal));
    }
}
