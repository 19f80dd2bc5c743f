//! A disk that a guest has left: a sound one, with bytes changed in what is not contents.

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;

use ext4::builder::Xattrs;
use ext4::reader::{Body, Image, ROOT, Reader};
use ext4::{Attributes, Builder, Contents, Kind, NodeId, Options, Plan, Sink, Size, Time};

use crate::source::Source;

/// Bytes of the disk.
const SIZE: usize = 2 << 20;
/// Folders that are looked into at most.
const FOLDERS_MAX: usize = 10;
/// Inodes that are looked at at most.
const INODES_MAX: usize = 2000;

struct Disk(RefCell<Vec<u8>>);

impl Image for Disk {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.borrow();
        let from = bytes.get(offset as usize..offset as usize + to.len());
        to.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

struct Bytes(Vec<u8>);

impl Sink for Bytes {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct Nothing;

impl Contents for Nothing {
    fn read(&mut self, _node: NodeId, _offset: u64, to: &mut [u8]) -> io::Result<()> {
        to.fill(1);
        Ok(())
    }
}

/// A disk with an inode of each kind.
fn sound() -> ext4::Result<Vec<u8>> {
    let attributes = Attributes { mode: 0o755, uid: 1, gid: 2, modified: Time::default() };
    let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![1; 300])]);
    let mut builder = Builder::new(attributes, Xattrs::new());
    let folder = builder.folder(NodeId::ROOT, b"folder", attributes, xattrs.clone())?;
    for number in 0..300 {
        let name = format!("a name that fills the folder {number}");
        let link = Kind::Symlink(vec![b'x'; number % 100 + 1]);
        builder.inode(folder, name.as_bytes(), attributes, Xattrs::new(), link)?;
    }
    let data = (0..8).map(|n| n * 16384..n * 16384 + 4096).collect();
    let file = Kind::File { size: 1 << 20, data };
    builder.inode(NodeId::ROOT, b"file", attributes, xattrs, file)?;
    let options = Options {
        size: Size::Bytes(SIZE as u64),
        journal: false,
        uuid: [7; 16],
        label: String::new(),
        epoch: 0,
    };
    let mut bytes = Bytes(vec![0; SIZE]);
    Plan::new(builder, options)?.write(&mut bytes, &mut Nothing, &mut |_| {})?;
    Ok(bytes.0)
}

/// Whatever a disk says, reading it ends, and what is said to be on it is on it.
pub fn run(data: &[u8]) {
    static SOUND: OnceLock<(Vec<u8>, u32)> = OnceLock::new();
    let (sound, used) = SOUND.get_or_init(|| {
        let bytes = sound().expect("it is described right");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u32 + 1;
        (bytes, used)
    });
    let mut bytes = sound.clone();
    let mut source = Source::new(data);
    while !source.is_empty() {
        let at = source.u32();
        // The superblock and the descriptors are few among many bytes.
        let at = if at & 1 == 0 { at / 2 % used } else { 1024 + at / 2 % 4096 };
        bytes[at as usize] = source.u8();
    }
    let disk = Disk(RefCell::new(bytes));
    let Ok(reader) = Reader::open(&disk, SIZE as u64) else { return };
    let mut open = vec![ROOT];
    let mut looked = 0;
    for _ in 0..INODES_MAX {
        let Some(number) = open.pop() else { break };
        let Ok(inode) = reader.inode(number) else { continue };
        match inode.body {
            Body::Folder(names) if looked < FOLDERS_MAX => {
                looked += 1;
                open.extend(names.into_iter().map(|(_, number)| number));
            }
            Body::File { size, places } => {
                let mut end = 0;
                for (range, at) in places {
                    assert!(end <= range.start && range.start < range.end && range.end <= size);
                    assert!(at + (range.end - range.start) <= SIZE as u64);
                    end = range.end;
                }
            }
            Body::Folder(_) | Body::Symlink(_) | Body::Special(_) => {}
        }
    }
}
