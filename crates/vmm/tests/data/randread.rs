//! Reads blocks of 4 KiB from random places of a disk, past the guest's cache, and prints how many
//! it read in a second: `randread DEVICE SECONDS`.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

const O_DIRECT: i32 = 0o40000;
const BLOCK: u64 = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().expect("a device");
    let time = Duration::from_secs(arguments.next().and_then(|s| s.parse().ok()).expect("seconds"));
    let mut file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(device).expect("it opens");
    let blocks = file.seek(SeekFrom::End(0)).expect("its size") / BLOCK;
    let mut memory = vec![0u8; 2 * BLOCK as usize];
    // Reading past the cache wants an aligned buffer.
    let at = memory.as_ptr().align_offset(BLOCK as usize);
    let buffer = &mut memory[at..at + BLOCK as usize];
    let (start, mut count, mut random) = (Instant::now(), 0u64, 88172645463325252u64);
    while start.elapsed() < time {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        file.read_exact_at(buffer, random % blocks * BLOCK).expect("a block");
        count += 1;
    }
    println!("{:.0}", count as f64 / start.elapsed().as_secs_f64());
}
