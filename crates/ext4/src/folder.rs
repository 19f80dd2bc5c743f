//! A folder's blocks: a list of names in one block, or an index by hash over many
//! (Documentation/filesystems/ext4/directory.rst).

use crate::checksum::Crc;
use crate::hash::half_md4;
use crate::put::Put;

const BLOCK: usize = crate::BLOCK_SIZE as usize;
/// The checksum of a block of names looks like a name of no inode.
const TAIL_LEN: usize = 12;
const TAIL_KIND: u8 = 0xDE;
const USABLE: usize = BLOCK - TAIL_LEN;
/// A leaf of the index is filled so far, and the guest can add names before it must split one.
const LEAF_FILL: usize = USABLE * 4 / 5;
/// The root's entries stand behind `.`, `..`, and what kind of index it is.
const ROOT_ENTRIES_AT: usize = 32;
const NODE_ENTRIES_AT: usize = 8;
const INDEX_ENTRY_LEN: usize = 8;
const INDEX_TAIL_LEN: usize = 8;
const ROOT_LIMIT: usize = (BLOCK - ROOT_ENTRIES_AT - INDEX_TAIL_LEN) / INDEX_ENTRY_LEN;
const NODE_LIMIT: usize = (BLOCK - NODE_ENTRIES_AT - INDEX_TAIL_LEN) / INDEX_ENTRY_LEN;
const HALF_MD4: u8 = 1;
const FOLDER_KIND: u8 = 2;

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    /// The kind, in the numbers of folders.
    pub(crate) kind: u8,
}

/// What a folder's blocks are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// The inode's checksum seed.
    pub(crate) seed: Crc,
    pub(crate) hash_seed: [u32; 4],
}

/// The blocks one after another, and whether the first is an index; nothing if there are more
/// names than an index of two levels holds.
pub(crate) fn blocks(place: Place, names: &[Name<'_>]) -> Option<(Vec<u8>, bool)> {
    let dots = [
        Name { name: b".", inode: place.inode, kind: FOLDER_KIND },
        Name { name: b"..", inode: place.parent, kind: FOLDER_KIND },
    ];
    let all: Vec<Name<'_>> = dots.iter().chain(names).copied().collect();
    if all.iter().map(record_len).sum::<usize>() <= USABLE {
        return Some((leaf(place, &all), false));
    }
    indexed(place, names).map(|blocks| (blocks, true))
}

fn record_len(name: &Name<'_>) -> usize {
    (8 + name.name.len()).next_multiple_of(4)
}

/// A block of names; the last one's record reaches to the checksum.
fn leaf(place: Place, names: &[Name<'_>]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    for (number, name) in names.iter().enumerate() {
        let last = number + 1 == names.len();
        let len = if last { USABLE - at } else { record_len(name) };
        record(&mut block[at..], name, len);
        at += len;
    }
    block.put16(USABLE + 4, TAIL_LEN as u16);
    block.put8(USABLE + 7, TAIL_KIND);
    let sum = place.seed.then(&block[..USABLE]).value();
    block.put32(USABLE + 8, sum);
    block
}

fn record(to: &mut [u8], name: &Name<'_>, len: usize) {
    to.put32(0, name.inode);
    to.put16(4, len as u16);
    to.put8(6, name.name.len() as u8);
    to.put8(7, name.kind);
    to.put_bytes(8, name.name);
}

/// A block of the index, and the hash from which on it is responsible.
type Child = (u32, u32);

fn indexed(place: Place, names: &[Name<'_>]) -> Option<Vec<u8>> {
    let leaves = split(place, names);
    let nodes = if leaves.len() <= ROOT_LIMIT { 0 } else { leaves.len().div_ceil(NODE_LIMIT) };
    if nodes > ROOT_LIMIT {
        return None;
    }
    let first_leaf = 1 + nodes as u32;
    let children: Vec<Child> =
        leaves.iter().zip(first_leaf..).map(|((hash, _), block)| (*hash, block)).collect();
    let mut blocks = Vec::with_capacity((1 + nodes + leaves.len()) * BLOCK);
    if nodes == 0 {
        blocks.extend(root(place, &children, 0));
    } else {
        let parts: Vec<&[Child]> = children.chunks(NODE_LIMIT).collect();
        let above: Vec<Child> =
            parts.iter().zip(1..).map(|(part, block)| (part[0].0, block)).collect();
        blocks.extend(root(place, &above, 1));
        parts.iter().for_each(|part| blocks.extend(node(place, part)));
    }
    leaves.iter().for_each(|(_, names)| blocks.extend(leaf(place, names)));
    Some(blocks)
}

/// Names in the order of their hashes, a block's worth together with the first one's hash.
fn split<'a>(place: Place, names: &[Name<'a>]) -> Vec<(u32, Vec<Name<'a>>)> {
    let mut hashed: Vec<((u32, u32), Name<'a>)> =
        names.iter().map(|name| (half_md4(place.hash_seed, name.name), *name)).collect();
    hashed.sort_by(|(a, an), (b, bn)| a.cmp(b).then_with(|| an.name.cmp(bn.name)));
    let mut leaves: Vec<(u32, Vec<Name<'a>>)> = Vec::new();
    let (mut filled, mut last) = (USABLE, None);
    for ((hash, _), name) in hashed {
        filled += record_len(&name);
        match leaves.last_mut().filter(|_| filled <= LEAF_FILL) {
            Some((_, leaf)) => leaf.push(name),
            None => {
                filled = record_len(&name);
                // The last bit: names of this hash are in the block before, too.
                leaves.push((hash | u32::from(last == Some(hash)), vec![name]));
            }
        }
        last = Some(hash);
    }
    leaves
}

fn root(place: Place, children: &[Child], levels: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let dots = [(&b"."[..], place.inode, 0, 12), (b"..", place.parent, 12, BLOCK - 12)];
    for (name, inode, at, len) in dots {
        record(&mut block[at..], &Name { name, inode, kind: FOLDER_KIND }, len);
    }
    block.put8(28, HALF_MD4);
    // The length of what says which kind of index this is.
    block.put8(29, 8);
    block.put8(30, levels);
    index(place, &mut block, children, ROOT_ENTRIES_AT, ROOT_LIMIT);
    block
}

fn node(place: Place, children: &[Child]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    // A record of no inode over the whole block hides it from those who know no index.
    block.put16(4, BLOCK as u16);
    index(place, &mut block, children, NODE_ENTRIES_AT, NODE_LIMIT);
    block
}

fn index(place: Place, block: &mut [u8], children: &[Child], at: usize, limit: usize) {
    for (number, (hash, child)) in children.iter().enumerate() {
        let at = at + number * INDEX_ENTRY_LEN;
        block.put32(at, *hash);
        block.put32(at + 4, *child);
    }
    // The first entry is responsible for all hashes below the second's; limit and count are in
    // the place of its hash.
    block.put16(at, limit as u16);
    block.put16(at + 2, children.len() as u16);
    let used = at + children.len() * INDEX_ENTRY_LEN;
    let sum = place.seed.then(&block[..used]).then(&[0; INDEX_TAIL_LEN]).value();
    block.put32(at + limit * INDEX_ENTRY_LEN + 4, sum);
}
