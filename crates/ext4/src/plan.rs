//! From the description to places: inode numbers, blocks, metadata.
//!
//! The order on the disk is the order of writing: the superblock with the descriptors, all bitmaps
//! and inode tables, the journal, the folders with everything else that is metadata, the files.

use crate::builder::{Body, Builder, Kind, NodeId, Time, data_blocks};
use crate::checksum::Crc;
use crate::extent::{self, Mapping, ROOT_LEN};
use crate::folder::{self, Name, Place};
use crate::geometry::{Allocator, BLOCKS_PER_GROUP, Full, Geometry, INODES_PER_BLOCK, Run};
use crate::inode::{self, FLAG_EXTENTS, FLAG_INDEXED, INODE_LEN, Inode, Type};
use crate::superblock::{
    self, Descriptor, FIRST_INODE, JOURNAL_INODE, NO_BLOCKS, NO_INODES, ROOT_INODE, TABLE_ZEROED,
};
use crate::{Attributes, BLOCK_SIZE, Error, Result, xattr};

const BLOCK: usize = BLOCK_SIZE as usize;
/// Longer targets of symbolic links need a block.
const SHORT_SYMLINK_MAX: usize = ROOT_LEN - 1;

/// How large the file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// As small as the content allows, with so many free bytes.
    Fit {
        /// Free bytes.
        free: u64,
    },
    /// So many bytes.
    Bytes(u64),
}

/// What else a file system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its size.
    pub size: Size,
    /// Whether it has a journal.
    pub journal: bool,
    /// Its identity; also the seed of its checksums and hashes.
    pub uuid: [u8; 16],
    /// Its name, of which the first 16 bytes count.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub epoch: u32,
}

/// A file system with everything in its place.
#[derive(Debug)]
pub struct Plan {
    pub(crate) geometry: Geometry,
    pub(crate) options: Options,
    pub(crate) groups: Vec<Descriptor>,
    /// The first is inode 1.
    pub(crate) inodes: Vec<[u8; INODE_LEN]>,
    /// Blocks in ascending order, each a whole number of them.
    pub(crate) metadata: Vec<(u64, Vec<u8>)>,
    /// The data of files, in the order of the disk.
    pub(crate) files: Vec<(NodeId, Vec<Mapping>, u64)>,
    pub(crate) used: Vec<Run>,
    pub(crate) journal: Option<([u8; ROOT_LEN], u64)>,
}

impl Plan {
    /// Finds a place for everything.
    pub fn new(mut builder: Builder, options: Options) -> Result<Self> {
        builder.complete()?;
        let inodes = (builder.nodes.len() as u32).saturating_add(FIRST_INODE);
        let xattrs = stored_xattrs(&builder)?;
        let demand = demand(&builder, &xattrs);
        let fit = |free: u64| Geometry::fit(demand.saturating_add(free), inodes, options.journal);
        match options.size {
            Size::Bytes(size) => {
                let geometry = Geometry::new(size, inodes, options.journal)?;
                let needed = || fit(0).map_or(u64::MAX, |geometry| geometry.blocks * BLOCK_SIZE);
                let planned = Planner::new(&builder, &xattrs, geometry, &options).run()?;
                planned.ok_or_else(|| Error::TooSmall { size, needed: needed() })
            }
            Size::Fit { free } => {
                let mut free = free / BLOCK_SIZE;
                loop {
                    let geometry = fit(free)?;
                    let planner = Planner::new(&builder, &xattrs, geometry, &options);
                    if let Some(plan) = planner.run()? {
                        return Ok(plan);
                    }
                    // Extent trees and gaps took more than was estimated.
                    free += BLOCKS_PER_GROUP;
                }
            }
        }
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.geometry.blocks * BLOCK_SIZE
    }

    /// Bytes that are free for the guest.
    pub fn free(&self) -> u64 {
        self.free_blocks() * BLOCK_SIZE
    }

    /// Bytes of content that will be read.
    pub fn content(&self) -> u64 {
        let runs = self.files.iter().flat_map(|(_, mappings, _)| mappings);
        runs.map(|mapping| mapping.run.len * BLOCK_SIZE).sum()
    }
}

/// The parts of the runs that are in a group.
pub(crate) fn used_in(used: &[Run], group: u32) -> impl Iterator<Item = Run> {
    let start = u64::from(group) * BLOCKS_PER_GROUP;
    let end = start + BLOCKS_PER_GROUP;
    let first = used.partition_point(|run| run.start + run.len <= start);
    used[first..].iter().take_while(move |run| run.start < end).map(move |run| {
        let from = run.start.max(start);
        Run { start: from, len: (run.start + run.len).min(end) - from }
    })
}

pub(crate) fn hash_seed(uuid: &[u8; 16]) -> [u32; 4] {
    std::array::from_fn(|n| {
        u32::from_le_bytes([uuid[4 * n], uuid[4 * n + 1], uuid[4 * n + 2], uuid[4 * n + 3]])
    })
}

fn stored_xattrs(builder: &Builder) -> Result<Vec<xattr::Stored>> {
    let mut all = Vec::with_capacity(builder.nodes.len());
    for (node, number) in builder.nodes.iter().zip(0..) {
        all.push(xattr::store(&node.xattrs).map_err(|refused| Error::Xattr {
            node: NodeId(number),
            name: String::from_utf8_lossy(&refused.name).into_owned(),
            why: refused.why,
        })?);
    }
    Ok(all)
}

/// Blocks for what is described, without trees.
fn demand(builder: &Builder, xattrs: &[xattr::Stored]) -> u64 {
    let blocks = |node: &crate::builder::Node| match &node.body {
        // Records have at most 8 bytes besides the name and 3 to the next multiple of four; blocks
        // are filled to four fifths, and an index is a hundredth of them.
        Body::Folder { names, .. } => {
            let bytes: u64 = names.keys().map(|name| name.len() as u64 + 11).sum();
            1 + bytes.div_ceil(2800)
        }
        Body::Other(Kind::File { data, .. }) => {
            data_blocks(data).iter().map(|(_, count)| count).sum()
        }
        Body::Other(Kind::Symlink(target)) => u64::from(target.len() > SHORT_SYMLINK_MAX),
        Body::Other(Kind::Special(_)) => 0,
    };
    let content: u64 = builder.nodes.iter().map(blocks).sum();
    content + xattrs.iter().filter(|stored| stored.block.is_some()).count() as u64
}

/// Gives everything its place. None as a result: it does not fit.
struct Planner<'a> {
    builder: &'a Builder,
    xattrs: &'a [xattr::Stored],
    options: &'a Options,
    geometry: Geometry,
    seed: Crc,
    hash_seed: [u32; 4],
    allocator: Allocator,
    inodes: Vec<Option<Inode>>,
    metadata: Vec<(u64, Vec<u8>)>,
    files: Vec<(NodeId, Vec<Mapping>, u64)>,
}

/// What is not an inode of the description.
struct Placed {
    groups: Vec<Descriptor>,
    /// The journal's inode and size.
    journal: Option<(Inode, u64)>,
}

/// A step's result: the crate's error, or no room.
type Step<T> = Result<std::result::Result<T, Full>>;

/// Goes on with what had room.
macro_rules! room {
    ($step:expr) => {
        match $step {
            Ok(value) => value,
            Err(full) => return Ok(Err(full)),
        }
    };
}

impl<'a> Planner<'a> {
    fn new(
        builder: &'a Builder,
        xattrs: &'a [xattr::Stored],
        geometry: Geometry,
        options: &'a Options,
    ) -> Self {
        Planner {
            builder,
            xattrs,
            options,
            geometry,
            seed: Crc::of_filesystem(&options.uuid),
            hash_seed: hash_seed(&options.uuid),
            allocator: Allocator::new(geometry),
            inodes: (0..builder.nodes.len()).map(|_| None).collect(),
            metadata: Vec::new(),
            files: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Option<Plan>> {
        match self.place()? {
            Ok(placed) => Ok(Some(self.finish(placed))),
            Err(Full) => Ok(None),
        }
    }

    fn place(&mut self) -> Step<Placed> {
        let groups = room!(self.groups());
        let journal = match self.geometry.journal_blocks {
            0 => None,
            blocks => Some(room!(self.journal(blocks))),
        };
        // Names before contents: a guest looks for files more often than it reads all of one.
        for contents in [false, true] {
            for number in 0..self.builder.nodes.len() {
                let node = NodeId(number as u32);
                let body = &self.builder.nodes[number].body;
                if matches!(body, Body::Other(Kind::File { .. })) == contents {
                    room!(self.node(node)?);
                }
            }
        }
        Ok(Ok(Placed { groups, journal }))
    }

    /// Bitmaps and tables.
    fn groups(&mut self) -> std::result::Result<Vec<Descriptor>, Full> {
        let mut groups = vec![Descriptor::default(); self.geometry.groups as usize];
        for group in &mut groups {
            group.block_bitmap = self.allocator.contiguous(1)?;
        }
        for group in &mut groups {
            group.inode_bitmap = self.allocator.contiguous(1)?;
        }
        for group in &mut groups {
            group.inode_table = self.allocator.contiguous(self.geometry.table_blocks())?;
        }
        Ok(groups)
    }

    fn journal(&mut self, blocks: u64) -> std::result::Result<(Inode, u64), Full> {
        let runs = self.allocator.runs(blocks)?;
        let mappings = extent::mappings(0, &runs);
        let seed = self.seed.of_inode(JOURNAL_INODE);
        let tree = extent::tree(&mappings, seed, &mut self.allocator)?;
        let head = superblock::journal_head(blocks, &self.options.uuid);
        self.metadata.push((runs[0].start, head));
        let size = blocks * BLOCK_SIZE;
        let modified = Time { seconds: self.options.epoch.into(), nanoseconds: 0 };
        let inode = Inode {
            kind: Type::File,
            attributes: Attributes { mode: 0o600, uid: 0, gid: 0, modified },
            size,
            blocks: blocks + tree.blocks.len() as u64,
            links: 1,
            flags: FLAG_EXTENTS,
            body: tree.root,
            xattr_block: 0,
            xattrs: Vec::new(),
        };
        self.metadata.extend(tree.blocks);
        Ok((inode, size))
    }

    fn node(&mut self, id: NodeId) -> Step<()> {
        let node = &self.builder.nodes[id.index()];
        let stored = &self.xattrs[id.index()];
        let mut inode = Inode {
            kind: Type::File,
            attributes: node.attributes,
            size: 0,
            blocks: 0,
            links: node.names,
            flags: 0,
            body: [0; ROOT_LEN],
            xattr_block: 0,
            xattrs: stored.inode.clone(),
        };
        if let Some(block) = &stored.block {
            let mut block = block.clone();
            inode.xattr_block = room!(self.allocator.contiguous(1));
            inode.blocks += 1;
            xattr::finish(&mut block, inode.xattr_block, self.seed);
            self.metadata.push((inode.xattr_block, block));
        }
        match &node.body {
            Body::Folder { names, parent } => {
                let names: Vec<_> = names.iter().map(|(name, node)| (&name[..], *node)).collect();
                room!(self.folder(&mut inode, id, *parent, &names)?);
            }
            Body::Other(Kind::Symlink(target)) => room!(self.symlink(&mut inode, id, target)),
            Body::Other(Kind::File { size, data }) => {
                room!(self.file(&mut inode, id, *size, data));
            }
            Body::Other(Kind::Special(special)) => {
                (inode.kind, inode.body) = inode::special_body(*special);
            }
        }
        self.inodes[id.index()] = Some(inode);
        Ok(Ok(()))
    }

    fn folder(
        &mut self,
        inode: &mut Inode,
        id: NodeId,
        parent: NodeId,
        names: &[(&[u8], NodeId)],
    ) -> Step<()> {
        let number = number_of(id);
        let seed = self.seed.of_inode(number);
        let parent = number_of(parent);
        let place = Place { inode: number, parent, seed, hash_seed: self.hash_seed };
        let list: Vec<Name<'_>> = names
            .iter()
            .map(|&(name, node)| {
                let kind = type_of(&self.builder.nodes[node.index()].body);
                Name { name, inode: number_of(node), kind: kind.in_folders() }
            })
            .collect();
        let too_many = || Error::FolderSize { node: id, names: names.len() };
        let (bytes, indexed) = folder::blocks(place, &list).ok_or_else(too_many)?;
        let folders = list.iter().filter(|name| name.kind == Type::Folder.in_folders()).count();
        inode.kind = Type::Folder;
        inode.links = 2 + folders as u32;
        inode.flags = if indexed { FLAG_INDEXED } else { 0 };
        room!(self.metadata_blocks(inode, seed, &bytes));
        inode.size = bytes.len() as u64;
        Ok(Ok(()))
    }

    fn symlink(
        &mut self,
        inode: &mut Inode,
        id: NodeId,
        target: &[u8],
    ) -> std::result::Result<(), Full> {
        inode.kind = Type::Symlink;
        inode.size = target.len() as u64;
        if target.len() <= SHORT_SYMLINK_MAX {
            inode.body[..target.len()].copy_from_slice(target);
            return Ok(());
        }
        let mut block = target.to_vec();
        block.resize(BLOCK, 0);
        self.metadata_blocks(inode, self.seed.of_inode(number_of(id)), &block)
    }

    /// Blocks that are written from the plan, as the inode's content.
    fn metadata_blocks(
        &mut self,
        inode: &mut Inode,
        seed: Crc,
        bytes: &[u8],
    ) -> std::result::Result<(), Full> {
        let runs = self.allocator.runs((bytes.len() / BLOCK) as u64)?;
        let mut rest = bytes;
        for run in &runs {
            let (part, behind) = rest.split_at(run.len as usize * BLOCK);
            self.metadata.push((run.start, part.to_vec()));
            rest = behind;
        }
        self.map(inode, seed, &extent::mappings(0, &runs))
    }

    fn file(
        &mut self,
        inode: &mut Inode,
        id: NodeId,
        size: u64,
        data: &[std::ops::Range<u64>],
    ) -> std::result::Result<(), Full> {
        let mut mappings = Vec::new();
        for (first, count) in data_blocks(data) {
            mappings.extend(extent::mappings(first, &self.allocator.runs(count)?));
        }
        inode.size = size;
        self.map(inode, self.seed.of_inode(number_of(id)), &mappings)?;
        if !mappings.is_empty() {
            self.files.push((id, mappings, size));
        }
        Ok(())
    }

    fn map(
        &mut self,
        inode: &mut Inode,
        seed: Crc,
        mappings: &[Mapping],
    ) -> std::result::Result<(), Full> {
        let tree = extent::tree(mappings, seed, &mut self.allocator)?;
        inode.flags |= FLAG_EXTENTS;
        inode.body = tree.root;
        inode.blocks += tree.blocks.len() as u64;
        inode.blocks += mappings.iter().map(|mapping| mapping.run.len).sum::<u64>();
        self.metadata.extend(tree.blocks);
        Ok(())
    }

    fn finish(mut self, placed: Placed) -> Plan {
        let Placed { mut groups, journal } = placed;
        let count = number_of(NodeId(self.builder.nodes.len() as u32 - 1)).max(FIRST_INODE);
        let mut inodes: Vec<_> = (1..=count).map(|n| inode::reserved(n, self.seed)).collect();
        let mut folders = vec![0u32; groups.len()];
        for (id, inode) in self.inodes.iter().enumerate() {
            let Some(inode) = inode else { continue };
            let number = number_of(NodeId(id as u32));
            inodes[number as usize - 1] = inode.render(number, self.seed);
            if inode.kind == Type::Folder {
                folders[((number - 1) / self.geometry.inodes_per_group) as usize] += 1;
            }
        }
        if let Some((inode, _)) = &journal {
            inodes[JOURNAL_INODE as usize - 1] = inode.render(JOURNAL_INODE, self.seed);
        }
        self.metadata.sort_by_key(|(place, _)| *place);
        let used = self.allocator.into_used();
        for ((group, number), folders) in groups.iter_mut().zip(0..).zip(folders) {
            group.folders = folders;
            count_group(group, number, &self.geometry, &used, count);
        }
        Plan {
            geometry: self.geometry,
            options: self.options.clone(),
            groups,
            inodes,
            metadata: self.metadata,
            files: self.files,
            used,
            journal: journal.map(|(inode, size)| (inode.body, size)),
        }
    }
}

/// What is free in a group of a file system with `count` inodes in use.
fn count_group(group: &mut Descriptor, number: u32, geometry: &Geometry, used: &[Run], count: u32) {
    let per_group = geometry.inodes_per_group;
    let in_use = count.saturating_sub(number * per_group).min(per_group);
    let taken: u64 = used_in(used, number).map(|run| run.len).sum();
    group.unused_inodes = per_group - in_use;
    group.free_inodes = per_group - in_use;
    group.free_blocks = (geometry.blocks_in(number) - taken) as u32;
    group.flags = TABLE_ZEROED;
    if in_use == 0 {
        group.flags |= NO_INODES;
    }
    let own = geometry.backup(number).map_or(0, |run| run.len);
    // The kernel wants to see the bitmap of the last group, which may end before its end.
    if taken == own && number + 1 < geometry.groups {
        group.flags |= NO_BLOCKS;
    }
}

/// The root has a number of its own; the others follow what is reserved.
fn number_of(node: NodeId) -> u32 {
    match node {
        NodeId::ROOT => ROOT_INODE,
        NodeId(id) => FIRST_INODE - 1 + id,
    }
}

fn type_of(body: &Body) -> Type {
    match body {
        Body::Folder { .. } => Type::Folder,
        Body::Other(Kind::File { .. }) => Type::File,
        Body::Other(Kind::Symlink(_)) => Type::Symlink,
        Body::Other(Kind::Special(special)) => inode::special_body(*special).0,
    }
}

const _: () = assert!(INODES_PER_BLOCK as usize * INODE_LEN == BLOCK);
