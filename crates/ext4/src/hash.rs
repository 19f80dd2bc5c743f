//! The hash of names in indexed folders: half of MD4, over bytes without sign
//! (Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories").

/// Bytes that are mixed in at a time.
const CHUNK: usize = 32;
/// What a folder's index cannot hold as a hash: it means the end to a reader.
const END: u32 = 0x7FFF_FFFF << 1;

const K2: u32 = 0x5A82_7999;
const K3: u32 = 0x6ED9_EBA1;

/// The hash and the minor hash, by which equal ones are ordered.
pub(crate) fn half_md4(seed: [u32; 4], name: &[u8]) -> (u32, u32) {
    let mut state = seed;
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = &rest[rest.len().min(CHUNK)..];
    }
    // The last bit says in an index that the hash goes on in the next block.
    let hash = state[1] & !1;
    (if hash == END { END - 2 } else { hash }, state[2])
}

/// The first 32 bytes as words; what is missing is filled with the length.
fn words(bytes: &[u8]) -> [u32; 8] {
    // Names are shorter than 256 bytes: the length in each of a word's bytes.
    let pad = bytes.len() as u32 * 0x0101_0101;
    let mut words = [pad; 8];
    for (word, part) in words.iter_mut().zip(bytes.chunks(4)) {
        *word = part.iter().fold(pad, |word, &byte| (word << 8).wrapping_add(byte.into()));
    }
    words
}

/// The order in which a round takes the words, and how far it rotates.
struct Round {
    mix: fn(u32, u32, u32) -> u32,
    constant: u32,
    order: [usize; 8],
    shifts: [u32; 4],
}

const ROUNDS: [Round; 3] = [
    Round {
        mix: |x, y, z| z ^ (x & (y ^ z)),
        constant: 0,
        order: [0, 1, 2, 3, 4, 5, 6, 7],
        shifts: [3, 7, 11, 19],
    },
    Round {
        mix: |x, y, z| (x & y).wrapping_add((x ^ y) & z),
        constant: K2,
        order: [1, 3, 5, 7, 0, 2, 4, 6],
        shifts: [3, 5, 9, 13],
    },
    Round {
        mix: |x, y, z| x ^ y ^ z,
        constant: K3,
        order: [3, 7, 2, 6, 1, 5, 0, 4],
        shifts: [3, 9, 11, 15],
    },
];

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for round in &ROUNDS {
        for (step, &word) in round.order.iter().enumerate() {
            let input = words[word].wrapping_add(round.constant);
            let sum = a.wrapping_add((round.mix)(b, c, d)).wrapping_add(input);
            (a, b, c, d) = (d, sum.rotate_left(round.shifts[step % 4]), b, c);
        }
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d]) {
        *old = old.wrapping_add(new);
    }
}
