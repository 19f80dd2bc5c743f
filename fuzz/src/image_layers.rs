//! Layers of images: any bytes as archives, and archives whose headers are mostly right; put into
//! one tree, which then becomes a file system in memory.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use ext4::{Contents, NodeId, Options, Plan, Sink, Size};
use image::tar::{Meaning, read_into};
use image::tree::Tree;

use crate::source::Source;

/// Entries of an archive in the frame of headers.
const ENTRIES_MAX: u8 = 12;
/// Larger file systems are planned, but not written.
const WRITTEN_MAX: u64 = 64 << 20;
const NAMES: [&str; 16] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "./a/",
    "../a",
    "/a",
    "a/.wh.b",
    "a/.wh..wh..opq",
    ".wh.a",
    "s",
    "s/x",
    ".wh..wh.x",
    "a//b",
    "lost+found",
    "\u{e9}",
];
const FLAGS: &[u8] = b"01234567xgLKSV";
const RECORDS: [&str; 8] = [
    "GNU.sparse.map=0,1,512,1",
    "GNU.sparse.major=1",
    "GNU.sparse.realsize=9000",
    "size=600",
    "SCHILY.xattr.user.x=y",
    "SCHILY.acl.access=user::rwx,group::r--,other::---,user:5:r--,mask::r--",
    "mtime=-1.5",
    "LIBARCHIVE.xattr.user.b=AAAA",
];

/// Puts what `data` describes into a tree, in one layer or two.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let choice = source.u8();
    let archive = match choice % 4 {
        0 => source.bytes(usize::MAX).to_vec(),
        _ => framed(&mut source),
    };
    let file = Arc::new(file_of(&archive));
    let meaning = if choice & 4 == 0 { Meaning::Layer } else { Meaning::Whole };
    let mut tree = Tree::new();
    for _ in 0..=(choice >> 3 & 1) {
        tree.next_layer();
        // What was put before the error stays, which is no matter: nobody would use it.
        let end = archive.len() as u64;
        let read = read_into(&mut tree, &file, 0..end, meaning, &mut |done| assert!(done <= end));
        if let Err(error) = read {
            assert!(!error.to_string().is_empty());
        }
    }
    if let Ok(described) = tree.describe() {
        let mut contents = described.contents;
        let options = Options {
            size: Size::Fit { free: 0 },
            journal: choice & 16 != 0,
            uuid: described.identity[..16].try_into().expect("16 of 32 bytes"),
            label: String::new(),
            epoch: 0,
        };
        if let Ok(plan) = Plan::new(described.builder, options)
            && plan.size() <= WRITTEN_MAX
        {
            let mut image = Image { end: plan.size(), written: 0 };
            plan.write(&mut image, &mut Checked(&mut contents), &mut |_| ()).expect("it fits");
            assert!(image.written > 0);
        }
    }
}

/// Forgets what is written, but not where.
struct Image {
    end: u64,
    written: u64,
}

impl Sink for Image {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.end);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Contents that were found in an archive can be read from it.
struct Checked<'a>(&'a mut dyn Contents);

impl Contents for Checked<'_> {
    fn read(&mut self, node: NodeId, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read(node, offset, to).expect("it is in the archive");
        Ok(())
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    file
}

fn framed(source: &mut Source<'_>) -> Vec<u8> {
    let mut archive = Vec::new();
    for _ in 0..source.u8() % ENTRIES_MAX {
        let flag = FLAGS[usize::from(source.u8()) % FLAGS.len()];
        let name = NAMES[usize::from(source.u8()) % NAMES.len()];
        let link = NAMES[usize::from(source.u8()) % NAMES.len()];
        let content = match flag {
            b'x' | b'g' => {
                let record = RECORDS[usize::from(source.u8()) % RECORDS.len()];
                let len = record.len() + 2;
                let len = len + (len + 2).to_string().len();
                format!("{len} {record}\n").into_bytes()
            }
            b'L' | b'K' => name.as_bytes().to_vec(),
            _ => {
                let len = usize::from(source.u8());
                source.bytes(len).to_vec()
            }
        };
        let mut block = header(name, link, flag, content.len(), source.u8());
        // Sometimes a byte is another one, with or without a checksum that is right.
        if source.u8() & 3 == 0 {
            let at = usize::from(source.u16()) % block.len();
            block[at] = source.u8();
            if source.u8() & 1 == 0 {
                sign(&mut block);
            }
        }
        archive.extend(block);
        archive.extend(&content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend(source.bytes(usize::MAX));
    archive
}

fn header(name: &str, link: &str, flag: u8, size: usize, mode: u8) -> [u8; 512] {
    let mut block = [0; 512];
    let fields = [
        (0, name.to_owned()),
        (100, format!("{mode:07o}")),
        (108, "0000001".into()),
        (116, "0000002".into()),
        (124, format!("{size:011o}")),
        (136, "00000000017".into()),
        (157, link.to_owned()),
        (257, "ustar".into()),
        (329, "0000001".into()),
        (337, "0000003".into()),
    ];
    for (at, text) in fields {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[156] = flag;
    sign(&mut block);
    block
}

fn sign(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
